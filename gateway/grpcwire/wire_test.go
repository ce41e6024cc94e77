package grpcwire

import (
	"testing"
	"time"
)

func TestKindOf(t *testing.T) {
	f := func(contentType string, want Kind) {
		t.Helper()
		if got := KindOf([]byte(contentType)); got != want {
			t.Errorf("%s: %d, want %d", contentType, got, want)
		}
	}
	f("application/grpc", Native)
	f("application/grpc+proto", Native)
	f("Application/gRPC; charset=x", Native)
	f("application/grpc-web", Web)
	f("application/grpc-web+proto", Web)
	f("application/grpc-web-text", WebText)
	f("application/grpc-web-text+proto", WebText)
	f("application/grpcx", Other)
	f("application/grpc-webx", Other)
	f("application/json", Other)
	f("", Other)
}

func TestTimeout(t *testing.T) {
	f := func(text string, want time.Duration, ok bool) {
		t.Helper()
		if got, valid := ParseTimeout([]byte(text)); got != want || valid != ok {
			t.Errorf("%s: %v %v, want %v %v", text, got, valid, want, ok)
		}
	}
	f("1H", time.Hour, true)
	f("2M", 2*time.Minute, true)
	f("3S", 3*time.Second, true)
	f("4m", 4*time.Millisecond, true)
	f("5u", 5*time.Microsecond, true)
	f("99999999n", 99999999, true)
	f("0S", 0, true)
	f("99999999H", longest, true)
	for _, bad := range []string{"", "S", "1", "1s", "-1S", "1.5S", "999999999S", "1 S", " 1S"} {
		f(bad, 0, false)
	}
	for _, d := range []time.Duration{1, 99999999, 1e8, time.Second, 90 * time.Second, 100 * time.Hour, longest} {
		text := AppendTimeout(nil, d)
		got, ok := ParseTimeout(text)
		if !ok || got < d || float64(got) > float64(d)*1.0001+1 && d != longest {
			t.Errorf("%v became %s, %v", d, text, got)
		}
	}
	if got := string(AppendTimeout(nil, -5)); got != "1n" {
		t.Errorf("what has passed became %s", got)
	}
}

func TestMessage(t *testing.T) {
	for _, m := range []string{"", "plain", "100%", "\t\r\n", "☺ 😈", "%41"} {
		encoded := AppendMessage(nil, m)
		for _, c := range encoded {
			if c < ' ' || c > '~' {
				t.Errorf("%q has %q", encoded, c)
			}
		}
		if got := Message(string(encoded)); got != m {
			t.Errorf("%q came back as %q", m, got)
		}
	}
	if got := Message("50% of %zz%"); got != "50% of %zz%" {
		t.Errorf("%q", got)
	}
}

func TestCodes(t *testing.T) {
	for c := range Codes {
		if got, ok := CodeNamed(c.String()); !ok || got != c {
			t.Errorf("%v is named %v", c, got)
		}
	}
	f := func(text string, want Code, ok bool) {
		t.Helper()
		if got, valid := ParseCode(text); got != want || valid != ok {
			t.Errorf("%s: %v %v", text, got, valid)
		}
	}
	f("0", OK, true)
	f("16", Unauthenticated, true)
	f("17", Unknown, false)
	f("", Unknown, false)
	f("-1", Unknown, false)
	f("100", Unknown, false)
}
