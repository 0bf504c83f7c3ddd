package ledger

import (
	"errors"
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/protobuf/proto"

	ledgerpb "barrage/harness/api/ledger"
)

// EncodeHistogram returns h, which may be nil, in HDR's own encoding, which loses nothing.
func EncodeHistogram(h *hdrhistogram.Histogram) ([]byte, error) {
	if h == nil {
		return nil, nil
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode a histogram: %w", err)
	}
	return b, nil
}

// DecodeHistogram is the way back. The histogram must be one of NewHistogram or
// NewLiveHistogram, so that it merges with all others of its kind.
func DecodeHistogram(b []byte) (*hdrhistogram.Histogram, error) {
	if len(b) == 0 {
		return nil, nil
	}
	h, err := hdrhistogram.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("decode a histogram: %w", err)
	}
	digits := h.SignificantFigures()
	if h.LowestTrackableValue() != LatencyLowest || h.HighestTrackableValue() != LatencyHighest || digits != 2 && digits != 3 {
		return nil, fmt.Errorf("decode a histogram: it goes from %d to %d with %d digits, not from %d to %d with 2 or 3",
			h.LowestTrackableValue(), h.HighestTrackableValue(), digits, LatencyLowest, LatencyHighest)
	}
	return h, nil
}

// MarshalBinary returns the report for another process, which can Merge it as if it had
// been made there. It has some bytes a push, and 18 a client.
func (r *Report) MarshalBinary() ([]byte, error) {
	out := &ledgerpb.Report{Strays: r.Strays[:]}
	for i, s := range r.Streams {
		p := &ledgerpb.Stream{Id: uint32(s.ID), First: s.First, Pushes: s.Pushes, WarmUp: s.WarmUp, Group: uint32(s.Group), Counts: encodeCounts(s.Counts)}
		before := int64(0)
		for _, e := range r.receipts[i] {
			p.Intended = append(p.Intended, e.intended-before)
			p.FirstReceipt = append(p.FirstReceipt, e.first)
			p.LastReceipt = append(p.LastReceipt, e.last)
			before = e.intended
		}
		out.Streams = append(out.Streams, p)
	}
	for _, h := range r.Latency {
		b, err := EncodeHistogram(h)
		if err != nil {
			return nil, err
		}
		out.Latency = append(out.Latency, b)
	}
	before := 0
	for _, w := range r.waits {
		out.Waiting = append(out.Waiting, int64(w.client-before))
		out.FirstHalf, out.SecondHalf = append(out.FirstHalf, uint64(w.halves[0])), append(out.SecondHalf, uint64(w.halves[1]))
		before = w.client
	}
	for _, h := range r.Groups {
		b, err := EncodeHistogram(h)
		if err != nil {
			return nil, err
		}
		out.Groups = append(out.Groups, b)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode a report: %w", err)
	}
	return b, nil
}

// UnmarshalBinary sets r to what MarshalBinary wrote. The error says what in b is not as
// it writes it.
func (r *Report) UnmarshalBinary(b []byte) error {
	var in ledgerpb.Report
	if err := proto.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("decode a report: %w", err)
	}
	var out Report
	if err := copyStrays(&out.Strays, in.Strays); err != nil {
		return fmt.Errorf("decode a report: %w", err)
	}
	for _, p := range in.Streams {
		s, receipts, err := decodeStream(p)
		if err != nil {
			return fmt.Errorf("decode a report: stream %d: %w", p.Id, err)
		}
		out.Streams = append(out.Streams, s)
		out.receipts = append(out.receipts, receipts)
	}
	if len(in.Latency) != Kinds {
		return fmt.Errorf("decode a report: it has latencies of %d kinds of clients, there are %d", len(in.Latency), Kinds)
	}
	for k, b := range in.Latency {
		h, err := decodeFine(b)
		if err != nil {
			return fmt.Errorf("decode a report: latency of %s: %w", Kind(k), err)
		}
		out.Latency[k] = h
	}
	if n := len(in.Waiting); n != len(in.FirstHalf) || n != len(in.SecondHalf) {
		return fmt.Errorf("decode a report: %d clients waited, with %d and %d sums", n, len(in.FirstHalf), len(in.SecondHalf))
	}
	client := int64(0)
	for i, step := range in.Waiting {
		if client += step; client < 0 || client > math.MaxInt32 {
			return fmt.Errorf("decode a report: a client has the number %d", client)
		}
		out.waits = append(out.waits, clientWait{int(client), [2]wait{wait(in.FirstHalf[i]), wait(in.SecondHalf[i])}})
	}
	for g, b := range in.Groups {
		h, err := decodeFine(b)
		if err == nil && h == nil {
			err = errors.New("there is none")
		}
		if err != nil {
			return fmt.Errorf("decode a report: latency of group %d: %w", g, err)
		}
		out.Groups = append(out.Groups, h)
	}
	*r = out
	return nil
}

// decodeFine is DecodeHistogram for those of NewHistogram.
func decodeFine(b []byte) (*hdrhistogram.Histogram, error) {
	h, err := DecodeHistogram(b)
	if err == nil && h != nil && h.SignificantFigures() != 3 {
		err = fmt.Errorf("%d digits, not 3", h.SignificantFigures())
	}
	return h, err
}

func decodeStream(p *ledgerpb.Stream) (StreamCounts, []receipt, error) {
	var s StreamCounts
	if p.Id > math.MaxUint16 {
		return s, nil, errors.New("the number is over 65535")
	}
	if p.Group > math.MaxUint8 {
		return s, nil, errors.New("the group is over 255")
	}
	s.Stream = Stream{ID: uint16(p.Id), First: p.First, Pushes: p.Pushes, WarmUp: p.WarmUp, Group: uint8(p.Group)}
	n := len(p.Intended)
	if uint64(n) != uint64(p.Pushes) || n != len(p.FirstReceipt) || n != len(p.LastReceipt) {
		return s, nil, fmt.Errorf("%d, %d and %d figures of %d pushes", n, len(p.FirstReceipt), len(p.LastReceipt), p.Pushes)
	}
	var err error
	if s.Counts, err = decodeCounts(p.Counts); err != nil {
		return s, nil, err
	}
	receipts := make([]receipt, n)
	at := int64(0)
	for i := range receipts {
		at += p.Intended[i]
		receipts[i] = receipt{intended: at, first: p.FirstReceipt[i], last: p.LastReceipt[i]}
	}
	return s, receipts, nil
}

func encodeCounts(c Counts) *ledgerpb.Counts {
	return &ledgerpb.Counts{
		Expected: c.Expected, Delivered: c.Delivered, Lost: c.Lost, Duplicate: c.Duplicate,
		Reordered: c.Reordered, Unknown: c.Unknown, Leftover: c.Leftover, Unexpected: c.Unexpected[:],
	}
}

func decodeCounts(p *ledgerpb.Counts) (Counts, error) {
	c := Counts{
		Expected: p.GetExpected(), Delivered: p.GetDelivered(), Lost: p.GetLost(), Duplicate: p.GetDuplicate(),
		Reordered: p.GetReordered(), Unknown: p.GetUnknown(), Leftover: p.GetLeftover(),
	}
	if c.Expected != c.Delivered+c.Lost {
		return c, fmt.Errorf("%d expected are not %d delivered and %d lost", c.Expected, c.Delivered, c.Lost)
	}
	return c, copyStrays(&c.Unexpected, p.GetUnexpected())
}

func copyStrays(dst *Strays, src []int64) error {
	if len(src) != len(dst) {
		return fmt.Errorf("%d reasons for what was not expected, there are %d", len(src), len(dst))
	}
	copy(dst[:], src)
	return nil
}
