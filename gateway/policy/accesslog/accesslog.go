// Package accesslog writes one line for every request when it has ended. It guarantees that no request waits for the output (lines that it
// can not take are dropped and counted) and that no line holds a query string or a credential.
package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `access_log`. Lines are written within a second; SIGUSR1 opens the files anew, for log rotation.
// A client that leaves before anything of its answer was sent is logged with status 499; one that leaves later with the status it was sent,
// the bytes that went out, and the reason `client_gone`.
type Config struct {
	// Path is `stdout`, `stderr` or a file to append to. Default: `stdout`, unless there are outputs.
	Path string `yaml:"path"`
	// Format of a line: `json`, or Apache's `combined`.
	Format string `yaml:"format" enum:"json|combined" default:"json"`
	// Sample is the share of requests that are logged.
	Sample float64 `yaml:"sample" default:"1.0" min:"0" max:"1"`
	// Redact names fields and request headers whose value is replaced by `[redacted]`, such as client_ip or user-agent. Credentials, cookies and query strings are never logged, named here or not.
	Redact []string `yaml:"redact" default:"authorization,proxy-authorization,cookie,set-cookie,x-api-key"`
	// Optional: an output that can not be opened is a warning, and requests go without that log.
	Optional bool `yaml:"optional" default:"false"`
	// Outputs get every line too.
	Outputs []Output `yaml:"outputs"`
}

// Complete fills in where lines go.
func (c *Config) Complete() {
	if c.Path == "" && len(c.Outputs) == 0 {
		c.Path = "stdout"
	}
}

// Output is one more place for the lines.
type Output struct {
	// File to append to, or `stdout` or `stderr`.
	File string `yaml:"file"`
	// HTTP sends the lines to a collector. Not built yet.
	HTTP any `yaml:"http"`
	// TCP sends the lines over a connection. Not built yet.
	TCP any `yaml:"tcp"`
	// UDP sends each line as a datagram. Not built yet.
	UDP any `yaml:"udp"`
	// Syslog sends the lines to a syslog server. Not built yet.
	Syslog any `yaml:"syslog"`
	// OTLP sends the lines to an OpenTelemetry collector. Not built yet.
	OTLP any `yaml:"otlp"`
}

// Validate refuses what is not built yet.
func (o *Output) Validate() error {
	var errs []error
	for _, other := range [...]struct {
		name  string
		value any
	}{{"http", o.HTTP}, {"tcp", o.TCP}, {"udp", o.UDP}, {"syslog", o.Syslog}, {"otlp", o.OTLP}} {
		if other.value != nil {
			errs = append(errs, config.Errorf(other.name, "this output is not built yet; write to a file, stdout or stderr"))
		}
	}
	if len(errs) == 0 && o.File == "" {
		errs = append(errs, config.Errorf("file", "this setting is missing; want a path, stdout or stderr"))
	}
	return errors.Join(errs...)
}

// Definition is the policy `access_log`.
var Definition = policy.Define("access_log", policy.Observe, build)

// Logs are the outputs of all access logs of the process, kept over reloads.
type Logs struct{ *telemetry.AccessLogs }

// reopenTimeout bounds the wait for an output that is stuck.
const reopenTimeout = 10 * time.Second

// Reopen opens all files anew, for log rotation.
func (l *Logs) Reopen() error {
	ctx, cancel := context.WithTimeout(context.Background(), reopenTimeout)
	defer cancel()
	return l.AccessLogs.Reopen(ctx)
}

// Close writes out what waits.
func (l *Logs) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), reopenTimeout)
	defer cancel()
	return l.AccessLogs.Close(ctx)
}

type logger struct {
	format  *telemetry.Format
	outputs []*telemetry.AccessLog
	sample  uint64 // of 1<<63 - 1
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	format, err := telemetry.NewFormat(c.Format, c.Redact)
	if err != nil {
		return policy.Hooks{}, policy.Wrong("format", "%v", err)
	}
	l := &logger{format: format, sample: uint64(c.Sample * math.MaxInt64)}
	if c.Sample == 1 {
		l.sample = math.MaxInt64
	}
	seen := map[string]bool{}
	for i, path := range c.paths() {
		setting := "path"
		if i -= len(c.paths()) - len(c.Outputs); i >= 0 {
			setting = fmt.Sprintf("outputs[%d].file", i)
		}
		if seen[path] {
			return policy.Hooks{}, policy.Wrong(setting, "%s gets every line already", path)
		}
		seen[path] = true
		var out *telemetry.AccessLog
		err := check(path)
		if err == nil && !b.World.DryRun {
			out, err = open(b.World, path)
		}
		switch {
		case err != nil && c.Optional:
			b.Warnf(setting, "there is no access log there: %v", err)
			continue
		case err != nil:
			return policy.Hooks{}, policy.Wrong(setting, "%v", err)
		case out == nil:
			continue
		}
		l.outputs = append(l.outputs, out)
	}
	return policy.Hooks{Done: l.done}, nil
}

// paths are the outputs, the policy's own before those of the list.
func (c *Config) paths() []string {
	var paths []string
	if c.Path != "" {
		paths = append(paths, clean(c.Path))
	}
	for i := range c.Outputs {
		paths = append(paths, clean(c.Outputs[i].File))
	}
	return paths
}

// clean gives a file one name, so that it is opened once.
func clean(path string) string {
	if path == "stdout" || path == "stderr" {
		return path
	}
	return filepath.Clean(path)
}

// check says why path can not be a log file, as far as that can be known without opening it.
func check(path string) error {
	if path == "stdout" || path == "stderr" {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder; name a file in it", path)
	}
	// Folders that are missing are made when the file is opened.
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir):
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is no folder", dir)
		}
		return nil
	}
}

func open(w *policy.World, path string) (*telemetry.AccessLog, error) {
	logs, err := policy.LivingAs(w, "access_log", func() (*Logs, error) {
		return &Logs{telemetry.NewAccessLogs(w.Metrics, w.Log, 0)}, nil
	})
	if err != nil {
		return nil, err
	}
	return logs.Open(w.Generation, path)
}

func (l *logger) done(x *exchange.Exchange) {
	if l.sample < math.MaxInt64 && rand.Uint64()>>1 >= l.sample {
		return
	}
	r := telemetry.Record{
		Time: x.Arrived, RequestID: x.RequestID, ClientIP: x.ClientAddr.Unmap(),
		Method: x.Method(), Host: x.Host, Path: x.Path, Protocol: protocol(x),
		Status: x.Status, BytesIn: x.BytesIn, BytesOut: x.BytesOut,
		Duration: time.Duration(x.Ended - x.Start), Upstream: -1,
		Service: x.Service, Endpoint: x.Endpoint, Reason: x.Reason, RPCStatus: x.RPCStatus, TraceID: x.TraceID,
		Referer: x.RequestHeader("Referer"), UserAgent: x.RequestHeader("User-Agent"),
	}
	if r.Path == nil { // unusable: as it came, without the query
		r.Path = x.Request.Header.RequestURI()
		if end := bytes.IndexAny(r.Path, "?#"); end >= 0 {
			r.Path = r.Path[:end]
		}
	}
	if x.Attempts > 0 {
		r.Upstream = time.Duration(x.UpstreamTime)
	}
	if x.Route != nil {
		r.Route = x.Route.Name
	}
	if x.Tenant != nil {
		r.Tenant = x.Tenant.Name
	}
	switch id := &x.Identity; {
	case id.Consumer != nil:
		r.Consumer = id.Consumer.NameHeader
	case id.Authenticated:
		r.Consumer = id.Subject
	}
	for _, out := range l.outputs {
		out.Append(l.format, &r)
	}
}

func protocol(x *exchange.Exchange) string {
	switch {
	case x.Unread:
		return ""
	case x.Protocol != "":
		return x.Protocol
	case x.Request.Header.IsHTTP11():
		return "HTTP/1.1"
	}
	return "HTTP/1.0"
}
