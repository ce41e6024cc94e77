//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// finding is one of testssl.sh's.
type finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Text     string `json:"finding"`
}

// parse reads the findings and sees to it that there are those of a whole scan.
func parse(b []byte) (all []finding, err error) {
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	for _, id := range []string{"TLS1_2", "TLS1_3", "cipher_order", "cert_keySize <cert#1>", "cert_keySize <cert#2>", "banner_server", "heartbleed", "ROBOT"} {
		if !slices.ContainsFunc(all, func(f finding) bool { return f.ID == id }) {
			return nil, fmt.Errorf("of %d none is about %s", len(all), id)
		}
	}
	return all, nil
}

// exempt are the findings, by id, that say something of the certificates of
// this scan and nothing of the gateway.
var exempt = map[string]string{
	"cert_revocation": "the throw-away authority answers no OCSP and publishes no list, so its certificates name neither; a real one's does, and `ocsp: FILE` staples the response",
}

// ill tells whether a finding makes the scan fail.
func (f *finding) ill() bool {
	switch f.Severity {
	case "OK", "INFO", "LOW", "DEBUG":
		return false
	}
	return f.exempt() == ""
}

func (f *finding) exempt() string {
	id, _, _ := strings.Cut(f.ID, " ")
	return exempt[id]
}

type report struct {
	began           time.Time
	sluice, scanner string
	findings        []finding
}

func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var b strings.Builder
	r.write(&b)
	return os.WriteFile(filepath.Join(dir, "tls.md"), []byte(b.String()), 0o644)
}

func (r *report) verdict(w io.Writer) error {
	var ill []error
	for i := range r.findings {
		if f := &r.findings[i]; f.ill() {
			ill = append(ill, fmt.Errorf("%s: %s: %s", f.Severity, f.ID, f.Text))
		}
	}
	if len(ill) == 0 {
		fmt.Fprintf(w, "%d findings, none above LOW\n", len(r.findings))
	}
	return errors.Join(ill...)
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "# TLS, as testssl.sh sees it\n\nTaken %s by `make scan-tls`: %s, %s.\n\n", r.began.UTC().Format("2006-01-02"), r.sluice, r.scanner)
	fmt.Fprintf(w, "The listener has no TLS settings but its two certificates, ECDSA P-256 and RSA 2048, and `hsts: 365d`. The authority that signed them is\n")
	fmt.Fprintf(w, "known to the scan alone. Anything above LOW fails it, but for what is said of the certificates only:\n\n")
	for _, id := range sorted(exempt) {
		fmt.Fprintf(w, "- `%s`: %s.\n", id, exempt[id])
	}
	count := make(map[string]int)
	var remarkable []*finding
	for i := range r.findings {
		f := &r.findings[i]
		count[f.Severity]++
		if f.Severity != "OK" && f.Severity != "INFO" {
			remarkable = append(remarkable, f)
		}
	}
	fmt.Fprintf(w, "\nFindings:")
	for i, severity := range sorted(count) {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, " %d %s", count[severity], severity)
	}
	fmt.Fprintf(w, ".\n\n## Above INFO\n\n| finding | severity | | |\n|---|---|---|---|\n")
	for _, f := range remarkable {
		why := f.exempt()
		switch {
		case why != "":
			why = "of the certificate alone"
		case f.ill():
			why = "**fails the scan**"
		default:
			why = remarks[strings.Fields(f.ID)[0]]
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", f.ID, f.Severity, cell(f.Text), why)
	}
	fmt.Fprintf(w, "\n## All findings\n\n| finding | severity | |\n|---|---|---|\n")
	for i := range r.findings {
		f := &r.findings[i]
		fmt.Fprintf(w, "| %s | %s | %s |\n", f.ID, f.Severity, cell(f.Text))
	}
}

// remarks explain findings that do not fail the scan.
var remarks = map[string]string{
	"TLS_session_ticket": "what crypto/tls tells clients, a constant; the key that opens a ticket is gone after 24 to 36 hours",
	"DNS_CAArecord":      "localhost has no DNS records",
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
