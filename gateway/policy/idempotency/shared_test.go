package idempotency

import (
	"bytes"
	"strings"
	"testing"

	"sluice/gateway/exchange"
)

func TestAnswersAreReadAsTheyWereWritten(t *testing.T) {
	f := func(status int, body []byte, fields ...string) {
		t.Helper()
		r := exchange.NewReply(status, exchange.Stored)
		for i := 0; i < len(fields); i += 2 {
			r.Head.AddBytesKV([]byte(fields[i]), []byte(fields[i+1]))
		}
		r.Body = body
		text := encodeAnswer(&Answer{Reply: r})
		got := decodeAnswer(text)
		if got == nil {
			t.Fatalf("%q can not be read", text)
		}
		if got.Reply.Head.String() != r.Head.String() || !bytes.Equal(got.Reply.Body, body) || got.Reply.Answer != exchange.Stored {
			t.Errorf("%q %q, want %q %q", got.Reply.Head.String(), got.Reply.Body, r.Head.String(), body)
		}
		// Nothing that is cut off passes for an answer.
		for n := range text {
			if decodeAnswer(text[:n]) != nil {
				t.Errorf("%d of %d bytes are taken for an answer", n, len(text))
			}
		}
		if decodeAnswer(append(text, 0)) != nil {
			t.Error("what is too long is taken for an answer")
		}
	}
	f(204, nil)
	f(201, []byte("{\"a\":1}\x00"), "Content-Type", "application/json", "Location", "/x", "X-Two", "1", "X-Two", "2", "X-Empty", "")
	f(200, bytes.Repeat([]byte("x"), 300), "X-Long", strings.Repeat("y", 200))
}
