package websocket

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"sluice/gateway/action/actiontest"
)

const services = `
services:
  chat: {endpoints: ["http://127.0.0.1:1"]}
  calls: {protocol: grpc, endpoints: ["http://127.0.0.1:1"]}
  two: {protocol: h2c, endpoints: ["http://127.0.0.1:1"]}
`

func TestFiles(t *testing.T) { actiontest.New(t, services).Files(t, Definition) }

// The examples of the HTML standard, section 9.2.6, and ends of lines of every kind in pieces of every size.
func TestEvents(t *testing.T) {
	f := func(stream string, want ...string) {
		t.Helper()
		for _, s := range []string{stream, strings.ReplaceAll(stream, "\n", "\r\n"), strings.ReplaceAll(stream, "\n", "\r")} {
			r := &eventReader{lines: bufio.NewReader(strings.NewReader(s)), limit: 100}
			var got []string
			for {
				e, err := r.next()
				if err != nil {
					if err != io.EOF {
						got = append(got, err.Error())
					}
					break
				}
				got = append(got, string(e.name)+"|"+string(e.data)+"|"+string(e.id))
			}
			if strings.Join(got, "\x00") != strings.Join(want, "\x00") {
				t.Errorf("%q: %q, want %q", s, got, want)
			}
		}
	}
	f("data: YHOO\ndata: +2\ndata: 10\n\n", "|YHOO\n+2\n10|")
	f(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", "|first event|1", "|second event|", "| third event|")
	f("data\n\ndata\ndata\n\ndata:", "||", "|\n|")
	f("data:test\n\ndata: test\n\n", "|test|", "|test|")
	f("\ufeffevent: a\ndata: b\n\nevent: lost\n\ndata: c\nretry: 10\nunknown: x\n\n", "a|b|", "|c|")
	f("data: not whole")
	f("data: "+strings.Repeat("x", 100)+"\n\n", errEventTooLarge.Error())
	f(strings.Repeat("data: 0123456789\n", 10)+"\n", errEventTooLarge.Error())
}
