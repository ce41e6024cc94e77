// Package delivery takes the lines of access logs to where they are collected: HTTP endpoints, TCP and UDP sockets, syslog and
// collectors of OpenTelemetry. It guarantees that a delivery is bounded in time and tries, that what could not be delivered is
// counted by its caller, line by line, and that no name or error of a destination tells a credential. OpenTelemetry's exporters
// of logs are its alone.
package delivery

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"sluice/config"
	"sluice/gateway/telemetry"
)

// Target is a destination whose settings are checked.
type Target struct {
	// Name is for people: without user, password and query.
	Name string
	// Identity is the same for the same settings, the contents of their files included.
	Identity string
	// Stamped: lines come with telemetry's stamp.
	Stamped bool
	// Open makes the output. It connects when there is something to deliver. A closed stop leaves a delivery closeGrace to end.
	Open func(stop <-chan struct{}) (telemetry.Output, error)
}

const (
	// closeGrace is how long the last lines may take at the end.
	closeGrace = 3 * time.Second
	// firstPause is how long the first repetition waits; each further one waits twice as long.
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// TLS is how a destination is verified, and how the gateway proves itself.
type TLS struct {
	// CA is the file of the authorities to verify against, PEM. Default: the system's.
	CA string `yaml:"ca"`
	// Cert is the file of the client certificate, PEM.
	Cert string `yaml:"cert"`
	// Key is the file of the client certificate's key, PEM.
	Key string `yaml:"key"`
	// ServerName to verify and to send by SNI. Default: the address's host.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}

// load reads the files. used says whether the destination is asked over TLS at all; without it there is nothing to set. The
// fingerprint tells the contents of the files.
func (t *TLS) load(used bool) (c *tls.Config, fingerprint string, err error) {
	if !used {
		if *t != (TLS{}) {
			return nil, "", config.Errorf("tls", "has no use without TLS; write the address with https:// or tls://")
		}
		return nil, "", nil
	}
	sum := sha256.New()
	c = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify} //nolint:gosec // an explicit setting
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, "", config.Errorf("tls.ca", "%v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", config.Errorf("tls.ca", "%s holds no PEM certificate", t.CA)
		}
		_, _ = sum.Write(pem)
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, "", config.Errorf("tls.cert", "%v", err)
		}
		c.Certificates = []tls.Certificate{pair}
		for _, der := range pair.Certificate {
			_, _ = sum.Write(der)
		}
	}
	return c, hex.EncodeToString(sum.Sum(nil)), nil
}

// identity makes one of all that tells destinations apart. Secrets go into a hash alone.
func identity(kind string, settings ...any) string {
	text, err := json.Marshal(settings)
	if err != nil {
		panic("BUG: settings that can not be written: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return kind + "#" + hex.EncodeToString(sum[:])
}

func revealed(headers map[string]config.Secret) map[string]string {
	all := make(map[string]string, len(headers))
	for name, value := range headers {
		all[name] = value.Reveal()
	}
	return all
}

// shown is a URL without what may be secret in it.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// withGrace gives a context that ends closeGrace after stop is closed.
func withGrace(stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-stop:
		case <-ctx.Done():
			return
		}
		t := time.NewTimer(closeGrace)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// final is an error that no repetition mends.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// busy is an error of a destination that says when it wants to be asked again.
type busy struct {
	error
	after time.Duration
}

func (b busy) Unwrap() error { return b.error }

// repeat calls deliver until it succeeds, up to retries times after the first. Once stop is closed there is one more try.
func repeat(ctx context.Context, stop <-chan struct{}, retries int, deliver func() error) error {
	pause := firstPause
	for try := 0; ; try++ {
		err := deliver()
		var f final
		if err == nil || errors.As(err, &f) || try >= retries {
			return err
		}
		wait := pause
		var b busy
		if errors.As(err, &b) && b.after > 0 {
			wait = min(b.after, maxPause)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-stop:
			t.Stop()
			try, stop = retries, nil
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w; no time is left to try again", err)
		}
		pause = min(2*pause, maxPause)
	}
}
