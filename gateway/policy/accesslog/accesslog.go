// Package accesslog writes one line for every request when it has ended. It guarantees that no request waits for the output (lines that it
// can not take are dropped and counted) and that no line holds a query string or a credential.
package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/delivery"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `access_log`. Lines are written within a second; SIGUSR1 opens the files anew, for log rotation. What waits for an output is
// bounded: lines beyond are dropped, and counted in sluice_access_log_dropped_total as those are that an output did not take.
// Lines of JSON have `grpc_status` for calls of gRPC, `operation` for requests of GraphQL that name theirs, and `trace_id` where requests are traced.
// A client that leaves before anything of its answer was sent is logged with status 499; one that leaves later with the status it was sent,
// the bytes that went out, and the reason `client_gone`.
type Config struct {
	// Path is `stdout`, `stderr` or a file to append to. Default: `stdout`, unless there are outputs.
	Path string `yaml:"path"`
	// Format of a line: `json`, Apache's `combined`, or `combined_extended`, which has behind it all other fields of JSON as NAME="VALUE".
	Format string `yaml:"format" enum:"json|combined|combined_extended" default:"json"`
	// Sample is the share of requests that are logged.
	Sample float64 `yaml:"sample" default:"1.0" min:"0" max:"1"`
	// SampleByStatus is the share for some statuses in place of `sample`, by the status, as 404, or its class, as 5xx: `{2xx: 0.01, 5xx: 1}`.
	SampleByStatus map[string]float64 `yaml:"sample_by_status"`
	// Redact names fields and request headers whose value is replaced by `[redacted]`, such as client_ip or user-agent, wherever lines go. Credentials, cookies and query strings are never logged, named here or not.
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

// Validate checks what the sampling is told by.
func (c *Config) Validate() error {
	var errs []error
	for _, status := range slices.Sorted(maps.Keys(c.SampleByStatus)) {
		path := fmt.Sprintf("sample_by_status[%q]", status)
		if !statusOrClass.MatchString(status) {
			errs = append(errs, config.Errorf(path, "%q is neither a status, as 404, nor a class of them, as 5xx", status))
		} else if share := c.SampleByStatus[status]; !(share >= 0 && share <= 1) {
			errs = append(errs, config.Errorf(path, "%v is out of range; it must be from 0 to 1", share))
		}
	}
	return errors.Join(errs...)
}

var statusOrClass = regexp.MustCompile(`^[1-5](?:xx|[0-9][0-9])$`)

// Output is one more place for the lines: exactly one of these.
type Output struct {
	// File to append to, or `stdout` or `stderr`.
	File string `yaml:"file"`
	// HTTP sends the lines to an endpoint, in batches.
	HTTP *delivery.HTTP `yaml:"http"`
	// TCP sends the lines over a connection, with or without TLS.
	TCP *delivery.TCP `yaml:"tcp"`
	// UDP sends each line as a datagram.
	UDP *delivery.UDP `yaml:"udp"`
	// Syslog sends each line as a message of syslog.
	Syslog *delivery.Syslog `yaml:"syslog"`
	// OTLP sends the requests to a collector of OpenTelemetry, as log records; `format` has no part in it.
	OTLP *delivery.OTLP `yaml:"otlp"`
}

// remote is an output that is no file.
type remote interface {
	Target() (*delivery.Target, error)
}

// remotes are those that are set, by name.
func (o *Output) remotes() (names []string, all []remote) {
	add := func(name string, set bool, r remote) {
		if set {
			names, all = append(names, name), append(all, r)
		}
	}
	add("http", o.HTTP != nil, o.HTTP)
	add("tcp", o.TCP != nil, o.TCP)
	add("udp", o.UDP != nil, o.UDP)
	add("syslog", o.Syslog != nil, o.Syslog)
	add("otlp", o.OTLP != nil, o.OTLP)
	return names, all
}

// Validate wants one place.
func (o *Output) Validate() error {
	names, _ := o.remotes()
	if o.File != "" {
		names = append([]string{"file"}, names...)
	}
	switch {
	case len(names) == 0:
		return config.Errorf("", "this output is nowhere; write one of file, http, tcp, udp, syslog and otlp")
	case len(names) > 1:
		return config.Errorf(names[1], "this output is %s already; write each as one of the list", names[0])
	}
	return nil
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
	outputs []output
	sample  uint64       // of 1<<63 - 1
	status  *[600]uint64 // the same by status; nil: it is for all the same
}

// output is where lines go, and what they look like there.
type output struct {
	log    *telemetry.AccessLog
	format *telemetry.Format
}

// share is a share of requests as logger has it.
func share(of float64) uint64 {
	if of == 1 {
		return math.MaxInt64
	}
	return uint64(of * math.MaxInt64)
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	format, err := telemetry.NewFormat(c.Format, c.Redact)
	if err != nil {
		return policy.Hooks{}, policy.Wrong("format", "%v", err)
	}
	l := &logger{sample: share(c.Sample)}
	if len(c.SampleByStatus) > 0 {
		l.status = c.shares()
	}
	places, err := c.places(format)
	if err != nil {
		return policy.Hooks{}, err
	}
	seen := map[string]bool{}
	for _, p := range places {
		if seen[p.identity] {
			return policy.Hooks{}, policy.Wrong(p.setting, "%s gets every line already", p.name)
		}
		seen[p.identity] = true
		err := p.problem
		var out *telemetry.AccessLog
		if err == nil && !b.World.DryRun {
			out, err = open(b.World, &p)
		}
		switch {
		case err != nil && c.Optional:
			b.Warnf(p.setting, "there is no access log there: %v", err)
			continue
		case err != nil:
			return policy.Hooks{}, policy.Wrong(p.setting, "%v", err)
		case out == nil:
			continue
		}
		l.outputs = append(l.outputs, output{out, p.format})
	}
	return policy.Hooks{Done: l.done}, nil
}

// shares are the shares by status: that of the status itself, else of its class, else of all.
func (c *Config) shares() *[600]uint64 {
	var all [600]uint64
	for status := range all {
		of := c.Sample
		if s, ok := c.SampleByStatus[strconv.Itoa(status/100)+"xx"]; ok {
			of = s
		}
		if s, ok := c.SampleByStatus[strconv.Itoa(status)]; ok {
			of = s
		}
		all[status] = share(of)
	}
	return &all
}

// place is where lines go, before it is opened.
type place struct {
	setting  string
	identity string // of a file its path
	name     string
	target   *delivery.Target // nil: a file
	format   *telemetry.Format
	problem  error // a file can not be there
}

// places are the outputs, the policy's own before those of the list.
func (c *Config) places(format *telemetry.Format) (all []place, err error) {
	file := func(setting, path string) {
		path = clean(path)
		all = append(all, place{setting: setting, identity: path, name: path, format: format, problem: check(path)})
	}
	if c.Path != "" {
		file("path", c.Path)
	}
	for i := range c.Outputs {
		o, setting := &c.Outputs[i], fmt.Sprintf("outputs[%d].", i)
		if o.File != "" {
			file(setting+"file", o.File)
			continue
		}
		names, remotes := o.remotes()
		setting += names[0]
		target, err := remotes[0].Target()
		if err != nil {
			var at *config.Error
			if errors.As(err, &at) {
				return nil, policy.Wrong(setting+"."+at.Path, "%s", at.Message)
			}
			return nil, policy.Wrong(setting, "%v", err)
		}
		if o.HTTP != nil && o.HTTP.Encoding == "json" && c.Format != "json" {
			return nil, policy.Wrong(setting+".encoding", "lines of the format %s are no JSON; write format: json, or encoding: lines", c.Format)
		}
		p := place{setting: setting, identity: target.Identity, name: target.Name, target: target, format: format}
		if o.OTLP != nil {
			// Its records are made of the fields.
			if p.format, err = telemetry.NewFormat("json", c.Redact); err != nil {
				return nil, err
			}
		}
		if target.Stamped {
			p.format = p.format.Stamped()
			p.identity += " stamped"
		}
		all = append(all, p)
	}
	return all, nil
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

func open(w *policy.World, p *place) (*telemetry.AccessLog, error) {
	logs, err := policy.LivingAs(w, "access_log", func() (*Logs, error) {
		return &Logs{telemetry.NewAccessLogs(w.Metrics, w.Log, 0)}, nil
	})
	if err != nil {
		return nil, err
	}
	if p.target == nil {
		return logs.Open(w.Generation, p.identity)
	}
	return logs.OpenOutput(w.Generation, p.identity, p.name, p.target.Open)
}

func (l *logger) done(x *exchange.Exchange) {
	sample := l.sample
	if l.status != nil && uint(x.Status) < uint(len(l.status)) {
		sample = l.status[x.Status]
	}
	if sample < math.MaxInt64 && rand.Uint64()>>1 >= sample {
		return
	}
	var r telemetry.Record // filled in field by field: a literal would be made, and then copied here
	r.Time, r.RequestID, r.ClientIP = x.Arrived, x.RequestID, x.ClientAddr.Unmap()
	if !x.TrustedPeer {
		r.ClientText = x.PeerText
	}
	r.Method, r.Host, r.Path, r.Protocol = x.Method(), x.Host, x.Path, protocol(x)
	r.Status, r.BytesIn, r.BytesOut = x.Status, x.BytesIn, x.BytesOut
	r.Duration, r.Upstream = time.Duration(x.Ended-x.Start), -1
	r.Service, r.Endpoint, r.Reason = x.Service, x.Endpoint, x.Reason
	r.RPCStatus, r.Operation, r.TraceID = x.RPCStatus, x.Operation, x.TraceID
	for i := range x.Fields {
		switch f := &x.Fields[i]; {
		case len(f.Name) == len("referer") && r.Referer == nil && exchange.EqualFold(f.Name, "referer"):
			r.Referer = f.Value
		case len(f.Name) == len("user-agent") && r.UserAgent == nil && exchange.EqualFold(f.Name, "user-agent"):
			r.UserAgent = f.Value
		}
	}
	if r.Path == nil { // unusable: as it came, without the query
		r.Path = x.Request.Header.RequestURI()
		if end := bytes.IndexAny(r.Path, "?#"); end >= 0 {
			r.Path = r.Path[:end]
		}
	}
	if x.Attempts > 0 {
		r.Upstream, r.Attempts = time.Duration(x.UpstreamTime), x.Attempts
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
	for i := range l.outputs {
		l.outputs[i].log.Append(l.outputs[i].format, &r)
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
