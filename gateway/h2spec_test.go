package gateway_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sluice/bench/program"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
)

// The public conformance suite of HTTP/2 (github.com/summerwind/h2spec), in its strict form, by TLS and by prior knowledge.
func TestHTTP2Suite(t *testing.T) {
	h2spec, err := program.Tool("h2spec")
	if err != nil {
		t.Fatal(err)
	}
	s := backend(t, func(p *peer) { // requests that end in the middle too
		for p.head() != "" {
			if _, err := io.WriteString(p.conn, okAnswer); err != nil {
				return
			}
		}
	})
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "localhost", DNS: []string{"localhost"}})
	for _, c := range []struct {
		name, listener string
		flags          []string
		not            string // what does not hold, for a reason
	}{
		{"tls", fmt.Sprintf("tls: {%s}", certificate(cert, key)), []string{"--tls", "--insecure"}, ""},
		// What does not begin with the preface is HTTP/1.1 there, and is answered so.
		{"h2c", "h2c: true", nil, "Sends invalid connection preface"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, gateway.Options{}, fmt.Sprintf("listeners: {main: {address: \"127.0.0.1:0\", %s}}\n", c.listener)+forwarding(s, "", "", ""))
			_, port, err := net.SplitHostPort(g.addr)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			report := filepath.Join(t.TempDir(), "report.xml")
			out, _ := exec.CommandContext(ctx, h2spec, append(c.flags, "--strict", "--timeout", "5", "--host", "127.0.0.1", "--port", port, "--junit-report", report)...).CombinedOutput()
			text, err := os.ReadFile(report)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			var suites struct {
				Suites []struct {
					Cases []struct {
						Section string  `xml:"package,attr"`
						What    string  `xml:"classname,attr"`
						Failed  *string `xml:"failure"`
						Error   *string `xml:"error"`
					} `xml:"testcase"`
				} `xml:"testsuite"`
			}
			if err := xml.NewDecoder(bytes.NewReader(text)).Decode(&suites); err != nil {
				t.Fatal(err)
			}
			cases := 0
			for _, suite := range suites.Suites {
				for _, of := range suite.Cases {
					cases++
					failed := of.Failed
					if failed == nil {
						failed = of.Error
					}
					if failed != nil && of.What != c.not {
						t.Errorf("%s, %s: %s", of.Section, of.What, *failed)
					}
				}
			}
			if cases < 140 {
				t.Errorf("only %d cases\n%s", cases, out)
			}
		})
	}
}
