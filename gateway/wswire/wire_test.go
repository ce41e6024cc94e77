package wswire

import (
	"bytes"
	"strings"
	"testing"
	"testing/quick"
)

// Section 1.3.
func TestAccept(t *testing.T) {
	if got := string(AppendAccept(nil, []byte("dGhlIHNhbXBsZSBub25jZQ=="))); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
	for key, want := range map[string]bool{
		"dGhlIHNhbXBsZSBub25jZQ==": true, "": false, "dGhlIHNhbXBsZSBub25jZQ": false, "dGhlIHNhbXBsZSBub25jZSE=": false, "dGhlIHNhbXBsZSBub25jZ!==": false,
	} {
		if IsKey([]byte(key)) != want {
			t.Errorf("%q: %v", key, !want)
		}
	}
	if a, b := NewKey(), NewKey(); !IsKey(a) || bytes.Equal(a, b) {
		t.Errorf("%s %s", a, b)
	}
}

func TestCodeName(t *testing.T) {
	for code, want := range map[int]string{1000: "1000", 1004: "other", 1006: "1006", 1014: "1014", 1016: "other", 999: "other", 3000: "3xxx", 4999: "4xxx", 5000: "other", 0: "other"} {
		if got := CodeName(code); got != want {
			t.Errorf("%d: %s", code, got)
		}
	}
}

// The examples of section 5.7, and heads of every size.
func TestScanner(t *testing.T) {
	f := func(wire string, want ...Frame) {
		t.Helper()
		for size := 1; size <= len(wire); size++ {
			if got, rest := scan(t, wire, size); len(rest) > 0 {
				t.Errorf("%x in pieces of %d: %x is left", wire, size, rest)
			} else if len(got) != len(want) {
				t.Errorf("%x in pieces of %d: %v", wire, size, got)
			} else {
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("%x in pieces of %d: frame %d is %+v, want %+v", wire, size, i, got[i], want[i])
					}
				}
			}
		}
	}
	f("\x81\x05Hello", Frame{Op: Text, Fin: true, Length: 5})
	f("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Frame{Op: Text, Fin: true, Masked: true, Length: 5})
	f("\x01\x03Hel\x80\x02lo", Frame{Op: Text, Length: 3}, Frame{Op: Continuation, Fin: true, Length: 2})
	f("\x89\x05Hello\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Frame{Op: Ping, Fin: true, Length: 5}, Frame{Op: Pong, Fin: true, Masked: true, Length: 5})
	f("\x82\x7e\x01\x00"+strings.Repeat("x", 256)+"\x81\x00", Frame{Op: Binary, Fin: true, Length: 256}, Frame{Op: Text, Fin: true})
	f("\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00", Frame{Op: Text, Fin: true, Reserved: true, Length: 7}) // compressed
	f("\x88\x00", Frame{Op: Close, Fin: true, Code: NoStatus})
	f("\x88\x01x", Frame{Op: Close, Fin: true, Length: 1, Code: NoStatus})
	f("\x88\x05\x03\xe9bye", Frame{Op: Close, Fin: true, Length: 5, Code: GoingAway})
	f(string(AppendClose(nil, true, Policy, "no")), Frame{Op: Close, Fin: true, Masked: true, Length: 4, Code: Policy})
	f(string(AppendClose(nil, false, 4321, "")), Frame{Op: Close, Fin: true, Length: 2, Code: 4321})
	long := "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
	if got, _ := scan(t, long+strings.Repeat("x", 65536)+"\x89\x00", 1000); len(got) != 2 || got[0].Length != 65536 || got[1].Op != Ping {
		t.Errorf("%v", got)
	}
}

// scan shows the wire in pieces, as a reader does that keeps what is not whole.
func scan(t *testing.T, wire string, size int) (frames []Frame, rest []byte) {
	t.Helper()
	var s Scanner
	for len(wire) > 0 {
		n := min(size, len(wire))
		rest = append(rest, wire[:n]...)
		wire = wire[n:]
		for len(rest) > 0 {
			n, e := s.Next(rest)
			if e == Bad {
				t.Fatalf("bad")
			}
			if e == Partial {
				break
			}
			if e == Head {
				frames = append(frames, s.Frame)
			}
			rest = rest[n:]
		}
	}
	if !s.Between() {
		t.Errorf("the last frame has not ended")
	}
	return frames, rest
}

func TestScannerBad(t *testing.T) {
	var s Scanner
	if _, e := s.Next([]byte("\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask")); e != Bad {
		t.Errorf("%v", e)
	}
}

// However long a reason is, the frame stays a control frame in UTF-8.
func TestCloseReason(t *testing.T) {
	for n := range 70 {
		b := AppendClose(nil, false, Normal, strings.Repeat("x", n)+strings.Repeat("é", 60))
		if len(b) > 2+MaxControl || int(b[1]) != len(b)-2 || !strings.HasSuffix(string(b), "é") {
			t.Errorf("%d: %x", n, b)
		}
	}
}

func TestMasked(t *testing.T) {
	f := func(payload []byte) bool {
		payload = payload[:min(len(payload), MaxControl)]
		b := AppendControl(nil, true, Ping, payload)
		for i := range b[6:] {
			b[6+i] ^= b[2+i&3]
		}
		return bytes.Equal(b[6:], payload)
	}
	if err := quick.Check(f, nil); err != nil {
		t.Error(err)
	}
}

func TestPace(t *testing.T) {
	p := Pace{Interval: 10, Burst: 3}
	var m Meter
	f := func(now int64, want bool) {
		t.Helper()
		if m.Take(p, now) != want {
			t.Errorf("at %d: %v", now, !want)
		}
	}
	for range 3 {
		f(100, true)
	}
	f(100, false)
	f(109, false)
	f(110, true)
	f(110, false)
	f(1000, true)
	f(1000, true)
	f(1000, true)
	f(1000, false)
	m = Meter{}
	p = Pace{}
	for range 100 {
		f(1, true)
	}
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x88\x02\x03\xe8"), uint8(3))
	f.Fuzz(func(t *testing.T, wire []byte, size uint8) {
		// In pieces it finds what it finds in the whole.
		whole, piecewise := found(wire, len(wire)), found(wire, int(size)+1)
		if len(whole) != len(piecewise) {
			t.Fatalf("%v %v", whole, piecewise)
		}
		for i := range whole {
			if whole[i] != piecewise[i] {
				t.Fatalf("%v %v", whole, piecewise)
			}
		}
	})
}

func found(wire []byte, size int) (frames []Frame) {
	var s Scanner
	var rest []byte
	for len(wire) > 0 {
		n := min(size, len(wire))
		rest, wire = append(rest, wire[:n]...), wire[n:]
		for len(rest) > 0 {
			n, e := s.Next(rest)
			if e == Bad {
				return append(frames, Frame{Op: 15})
			}
			if e == Partial {
				break
			}
			if e == Head {
				frames = append(frames, s.Frame)
			}
			rest = rest[n:]
		}
	}
	return frames
}

func BenchmarkScanner(b *testing.B) {
	wire := append([]byte("\x82\x7e\x10\x00"), make([]byte, 4096)...)
	b.SetBytes(int64(len(wire)))
	var s Scanner
	for b.Loop() {
		for at := 0; at < len(wire); {
			n, _ := s.Next(wire[at:])
			at += n
		}
	}
}
