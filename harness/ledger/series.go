package ledger

import "sort"

// A Series is the stamps of consecutive pushes of one stream that a Book has entered, in the
// order of their intended times: what many clients receive alike, so that each run of it can be
// entered for all but the first of them at a price that is not that of its pushes. Get one from
// Book.NewSeries.
type Series struct {
	book   *Book
	stamps []Stamp
	sums   []int64 // one more than stamps: of the intended times before it, modulo 2^64
}

// NewSeries returns an empty series of b's.
func (b *Book) NewSeries() Series { return Series{book: b, sums: []int64{0}} }

// Len returns the number of stamps.
func (s *Series) Len() int { return len(s.stamps) }

// At returns a stamp by its position.
func (s *Series) At(i int) Stamp { return s.stamps[i] }

// Append puts st at the end, and says so. It puts nothing there where st is not the next push
// of the stream, is due before the last one, or is not what the book has entered of that push.
func (s *Series) Append(st Stamp) bool {
	if n := len(s.stamps); n > 0 {
		if last := &s.stamps[n-1]; st.Stream != last.Stream || st.Seq != last.Seq+1 || st.Intended < last.Intended {
			return false
		}
	}
	if !s.book.entered(st) {
		return false
	}
	s.stamps = append(s.stamps, st)
	s.sums = append(s.sums, s.sums[len(s.sums)-1]+st.Intended)
	return true
}

// Cut takes the first n stamps away. Runs of the series must not be used any more.
func (s *Series) Cut(n int) {
	s.stamps = append(s.stamps[:0], s.stamps[n:]...)
	s.sums = append(s.sums[:0], s.sums[n:]...)
}

// Run returns the stamps from position from until before to. It holds until the next Append or
// Cut.
func (s *Series) Run(from, to int) Run { return Run{s.stamps[from:to], s.sums[from : to+1]} }

// A Run is consecutive stamps of a Series.
type Run struct {
	stamps []Stamp
	sums   []int64
}

// Len returns the number of stamps.
func (r Run) Len() int { return len(r.stamps) }

// At returns a stamp by its position.
func (r Run) At(i int) Stamp { return r.stamps[i] }

// parts returns the first n stamps of the run and the others.
func (r Run) parts(n int) (Run, Run) {
	return Run{r.stamps[:n], r.sums[:n+1]}, Run{r.stamps[n:], r.sums[n:]}
}

// until returns how many stamps, which is one at least, are due until then.
func (r Run) until(then int64) int {
	return max(1, sort.Search(len(r.stamps), func(i int) bool { return r.stamps[i].Intended > then }))
}

// waits returns the sum of the latencies of who receives the run at arrival.
func (r Run) waits(arrival int64) int64 {
	return int64(len(r.stamps))*arrival - (r.sums[len(r.stamps)] - r.sums[0])
}

// entered says whether the book has entered a receipt of the push that s says.
func (b *Book) entered(s Stamp) bool {
	listed := b.streams.position(s.Stream)
	if listed < 0 {
		return false
	}
	t := &b.tallies[listed]
	i := s.Seq - t.first
	return uint64(i) < uint64(len(t.receipts)) && s.Intended != 0 && t.receipts[i].intended == s.Intended
}
