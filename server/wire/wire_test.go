package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden compares b with testdata/name, a hex dump. UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	got := hex.Dump(b)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%swant\n%s", name, got, want)
	}
}

func TestGoldenBytes(t *testing.T) {
	push := AppendFrame(nil, Frame{Ver: 1, Op: 1000, Body: []byte(`{"test":1}`)})
	batch := append(append([]byte(nil), push...), AppendFrame(nil, Frame{Ver: 1, Op: 1001})...)
	wsBatch := func(b []byte) []byte { return append(AppendWSBatchHeader(nil, len(b)), b...) }
	for name, b := range map[string][]byte{
		"heartbeat":          AppendFrame(nil, Frame{Ver: 1, Op: OpHeartbeat, Seq: 258}),
		"auth":               AppendFrame(nil, Frame{Ver: 1, Op: OpAuth, Seq: 1, Body: []byte(`{"mid":123,"room_id":"live://1000"}`)}),
		"negative":           AppendFrame(nil, Frame{Ver: -1, Op: -2, Seq: -3}),
		"push":               push,
		"batch_tcp":          batch,
		"batch_websocket":    wsBatch(batch),
		"batch_ws_16bit":     AppendWSBatchHeader(nil, 1000),
		"batch_ws_64bit":     AppendWSBatchHeader(nil, 70000),
		"websocket_125":      AppendWSHeader(nil, 125),
		"websocket_126":      AppendWSHeader(nil, 126),
		"websocket_65535":    AppendWSHeader(nil, 65535),
		"websocket_65536":    AppendWSHeader(nil, 65536),
		"disconnect_message": AppendFrame(nil, Frame{Ver: 1, Op: OpDisconnectReply, Body: []byte(`{"code":"replaced"}`)}),
	} {
		golden(t, name, b)
	}
}

func TestDecode(t *testing.T) {
	whole := AppendFrame(nil, Frame{Ver: 1, Op: 7, Seq: 9, Body: []byte("body")})
	edit := func(at int, v ...byte) []byte {
		b := bytes.Clone(whole)
		copy(b[at:], v)
		return b
	}
	for _, tc := range []struct {
		name string
		in   []byte
		err  error
		says string
	}{
		{"whole", whole, nil, ""},
		{"more behind it", append(bytes.Clone(whole), 1, 2, 3), nil, ""},
		{"a version that nobody knows is accepted, as goim does", edit(6, 0x7f, 0xff), nil, ""},
		{"version 0", edit(6, 0, 0), nil, ""},
		{"version negative", edit(6, 0xff, 0xff), nil, ""},
		{"nothing", nil, ErrShort, ""},
		{"three bytes", whole[:3], ErrShort, ""},
		{"header only", whole[:16], ErrShort, ""},
		{"one byte missing", whole[:19], ErrShort, ""},
		{"length 15", edit(0, 0, 0, 0, 15), ErrPackageLength, "15, accepted is 16 to 4112"},
		{"length 0", edit(0, 0, 0, 0, 0)[:4], ErrPackageLength, "0, accepted"},
		{"length 4113", edit(0, 0, 0, 0x10, 0x11), ErrPackageLength, "4113"},
		{"length negative", edit(0, 0xff, 0xff, 0xff, 0xff), ErrPackageLength, "-1"},
		{"length smallest int32", edit(0, 0x80, 0, 0, 0), ErrPackageLength, ""},
		{"header length 17", edit(4, 0, 17), ErrHeaderLength, "17"},
		{"header length is found early", edit(4, 0, 17)[:6], ErrHeaderLength, ""},
		{"header length negative", edit(4, 0xff, 0xf0), ErrHeaderLength, "-16"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, n, err := Decode(tc.in, MaxClientBody)
			if !errors.Is(err, tc.err) || tc.err == nil && err != nil {
				t.Fatalf("error is %v, want %v", err, tc.err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error is %q, want %q in it", err, tc.says)
				}
				return
			}
			if ver := int16(tc.in[6])<<8 | int16(tc.in[7]); n != len(whole) || f.Ver != ver || f.Op != 7 || f.Seq != 9 || string(f.Body) != "body" {
				t.Errorf("frame is %+v of %d bytes", f, n)
			}
			if &f.Body[0] != &tc.in[HeaderLen] {
				t.Error("the body is a copy")
			}
			if cap(f.Body) != len(f.Body) {
				t.Error("appending to the body would overwrite what follows")
			}
		})
	}
}

func TestBatch(t *testing.T) {
	var b Batch
	for i := range 3 {
		b = AppendFrame(b, Frame{Ver: 1, Op: Op(1000 + i), Body: bytes.Repeat([]byte{'x'}, 5000*i)})
	}
	if n, err := b.Count(); n != 3 || err != nil {
		t.Errorf("count is %d, %v, want 3", n, err)
	}
	rest := b
	for i := range 3 {
		f, err := rest.Next()
		if err != nil || f.Op != Op(1000+i) || len(f.Body) != 5000*i {
			t.Fatalf("frame %d is op %d with %d bytes, %v", i, f.Op, len(f.Body), err)
		}
	}
	if _, err := rest.Next(); err != io.EOF {
		t.Errorf("end is %v, want io.EOF", err)
	}
	if n, err := b[:len(b)-1].Count(); n != 2 || !errors.Is(err, ErrShort) || !strings.Contains(err.Error(), "byte 5032 of 15047") {
		t.Errorf("count of a cut batch is %d, %v", n, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(AppendFrame(nil, Frame{Ver: 1, Op: 7, Seq: 9, Body: []byte("body")}), 4096)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 16}, 0)
	f.Add([]byte{}, 1<<30)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		if limit < 0 {
			return
		}
		in := bytes.Clone(b)
		frame, n, err := Decode(b, limit)
		if err != nil {
			if n != 0 {
				t.Fatalf("%d bytes taken with %v", n, err)
			}
			return
		}
		if n > len(b) || n != frame.Size() || len(frame.Body) > limit {
			t.Fatalf("frame of %d bytes from %d, body %d, limit %d", n, len(b), len(frame.Body), limit)
		}
		if !bytes.Equal(AppendFrame(nil, frame), in[:n]) || !bytes.Equal(in, b) {
			t.Fatal("encode of decode is not the input")
		}
		for i := range n {
			if _, _, err := Decode(b[:i], limit); !errors.Is(err, ErrShort) {
				t.Fatalf("the first %d of %d bytes give %v", i, n, err)
			}
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add(int16(1), int32(1000), int32(0), []byte("x"))
	f.Fuzz(func(t *testing.T, ver int16, op, seq int32, body []byte) {
		in := Frame{Ver: ver, Op: Op(op), Seq: seq, Body: body}
		out, n, err := Decode(AppendFrame(nil, in), len(body))
		if err != nil || n != in.Size() || out.Ver != ver || out.Op != Op(op) || out.Seq != seq || !bytes.Equal(out.Body, body) {
			t.Fatalf("decode of encode of %+v is %+v, %v", in, out, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	one := AppendFrame(nil, Frame{Ver: 1, Op: 1000, Body: []byte("x")})
	f.Add(append(bytes.Clone(one), one...))
	f.Add(one[:16])
	f.Fuzz(func(t *testing.T, b []byte) {
		want, countErr := Batch(b).Count()
		rest, n := Batch(b), 0
		var again []byte
		for {
			frame, err := rest.Next()
			if err != nil {
				if (err == io.EOF) != (countErr == nil) || n != want {
					t.Fatalf("Next ends with %v after %d frames, Count says %d, %v", err, n, want, countErr)
				}
				break
			}
			again = AppendFrame(again, frame)
			n++
		}
		if !bytes.Equal(append(again, rest...), b) {
			t.Fatal("the frames and the rest are not the batch")
		}
	})
}

func BenchmarkAppendFrame(b *testing.B) {
	f := Frame{Ver: 1, Op: 1000, Body: make([]byte, 64)}
	dst := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendFrame(dst[:0], f)
	}
}

func BenchmarkDecode(b *testing.B) {
	in := AppendFrame(nil, Frame{Ver: 1, Op: 1000, Body: make([]byte, 64)})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(in, MaxClientBody); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBatchNext(b *testing.B) {
	var batch Batch
	for range 100 {
		batch = AppendFrame(batch, Frame{Ver: 1, Op: 1000, Body: make([]byte, 64)})
	}
	b.ReportAllocs()
	for b.Loop() {
		for rest := batch; len(rest) > 0; {
			if _, err := rest.Next(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/frame")
}

func BenchmarkAppendWSBatchHeader(b *testing.B) {
	dst := make([]byte, 0, MaxWSBatchHeader)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendWSBatchHeader(dst[:0], 5000)
	}
}
