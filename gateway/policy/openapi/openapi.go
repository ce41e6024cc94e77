// Package openapi holds requests to the OpenAPI document of their route, and watches whether answers are what it promises.
//
// What it guarantees: a request that passes in mode block has a path, a method, parameters, a content type and a body
// that the document describes, read in one way only. What two readers could read differently is refused: a parameter
// that stands twice and is no list, a member of an object that stands twice, a query that can not be decoded. What is
// told of a request, to its client or in the log, is the place and what would be right there, never a value.
package openapi

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of `openapi`, on a route or under `policies`; a text stands for `file`. Requests must have a path, a method,
// parameters, a content type and a body that the document describes, else they get 404, 405, 400 or 415 with the place of what is wrong.
// Bodies of JSON, forms and plain text are checked, of others the content type alone. `security` in the document is not looked at: policies authenticate.
type Config struct {
	// File is the OpenAPI document, of version 3.0 or later, in YAML or JSON; a relative path starts at the file that names it, or at the working directory. The files that its `$ref`s name belong to it. The gateway reloads when one of them changes.
	File string `yaml:"file" required:"true"`
	// Requests is what happens to those that do not fit: `block` refuses them, `detect` lets them pass, counts and logs them, `off` does not look.
	Requests string `yaml:"requests" default:"block" enum:"block|detect|off"`
	// Responses that do not fit are counted and logged with `detect`: status, content type and JSON. They always pass.
	Responses string `yaml:"responses" default:"detect" enum:"detect|off"`
	// BasePath is what stands before the document's paths in those of requests. Default: the path of one of its `servers`; with `strip_prefix` also what is stripped.
	BasePath string `yaml:"base_path"`
	// Undocumented is what happens to requests whose path or method the document does not have: `reject` answers 404 or 405, `pass` lets them pass unseen. In mode `detect` they pass.
	Undocumented string `yaml:"undocumented" default:"reject" enum:"reject|pass"`
	// Bodies are read and checked. A route with `streaming` has to turn it off; then only their content type is looked at.
	Bodies bool `yaml:"bodies" default:"true"`
	// MaxBody is the largest body that is checked; a larger one gets 413, and in mode `detect` passes unseen. It is held until it is complete.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1" max:"64MiB"`
	// MaxResponse is the largest body of a response that is checked. It is not held back.
	MaxResponse config.Size `yaml:"max_response" default:"256KiB" min:"1" max:"64MiB"`
}

// Shorthand names the setting that a text stands for.
func (Config) Shorthand() string { return "file" }

// Validate judges what tags can not.
func (c *Config) Validate() error {
	var errs config.Errors
	if c.BasePath != "" && (c.BasePath[0] != '/' || strings.ContainsAny(c.BasePath, "?#{}")) {
		errs = append(errs, config.Errorf("base_path", "%q is no path; write it as /api/v1", c.BasePath))
	}
	if c.Requests == "off" && c.Responses == "off" {
		errs = append(errs, config.Errorf("requests", "nothing is looked at, since responses is off too; turn one of them on, or leave openapi out"))
	}
	return errs.Err()
}

// Definition is the policy `openapi`.
var Definition = policy.Define("openapi", policy.Inspect, build)

// guard is the policy in one place. It is immutable.
type guard struct {
	route   string
	paths   *table
	bases   []string
	strip   bool // what the route strips may stand before the document's paths too
	blocks  bool
	looks   bool // at requests
	bodies  bool
	strict  bool // about what the document does not have
	maxBody int
	maxKept int // of a response

	log *telemetry.Limited

	passed, detected, refused, unseen   *telemetry.Counter
	fitting, differing, unseenResponses *telemetry.Counter
}

// logEvery is how often one place writes to the operator log about requests, and about responses.
const logEvery = time.Second

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	if b.RouteConfig != nil && b.RouteConfig.Streaming && c.Bodies && c.Requests != "off" {
		return policy.Hooks{}, policy.Wrong("bodies", "the route %s has streaming, so that bodies are not held; write bodies: false to check all but them", b.RouteConfig.Name)
	}
	file := locate(b, c.File)
	d, err := policy.Once(b.World, "openapi/"+file, func() (*description, error) { return load(file) })
	if b.World.Follow != nil && d != nil {
		for _, file := range d.files {
			b.World.Follow(file)
		}
	}
	if err != nil {
		return policy.Hooks{}, placed(b, err)
	}
	g := &guard{
		paths: &d.paths, bases: d.bases, blocks: c.Requests == "block", looks: c.Requests != "off", bodies: c.Bodies,
		strict: c.Undocumented == "reject", maxBody: int(c.MaxBody), maxKept: int(c.MaxResponse),
	}
	if c.BasePath != "" {
		g.bases = []string{strings.TrimSuffix(c.BasePath, "/")}
	} else if b.RouteConfig != nil {
		g.strip = b.RouteConfig.StripPrefix
	}
	if b.Route == nil {
		return policy.Hooks{}, nil // of what has no route: there is nothing to describe
	}
	g.route = b.Route.Name
	if b.World.Describe != nil {
		b.World.Describe(policy.Document{Route: g.route, File: file, Base: g.publicBase(b.RouteConfig), JSON: d.json})
	}
	g.log = telemetry.NewLimited(b.World.Log, logEvery)
	requests := func(result string) *telemetry.Counter {
		return b.World.Metrics.OpenAPIRequests.With(b.World.Generation, g.route, result)
	}
	responses := func(result string) *telemetry.Counter {
		return b.World.Metrics.OpenAPIResponses.With(b.World.Generation, g.route, result)
	}
	g.passed, g.detected, g.refused, g.unseen = requests("passed"), requests("detected"), requests("refused"), requests("unchecked")
	g.fitting, g.differing, g.unseenResponses = responses("passed"), responses("detected"), responses("unchecked")
	hooks := policy.Hooks{Request: g.request, Blocking: true}
	if c.Responses == "detect" {
		hooks.Response = g.response
	}
	return hooks, nil
}

// locate finds a file beside the one that names it, else from the working directory.
func locate(b *policy.Build, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	beside := filepath.Join(filepath.Dir(b.World.Config.Errorf(b.Path, "").Pos.File), file)
	if _, err := os.Stat(file); err == nil {
		if _, err := os.Stat(beside); err != nil {
			return file
		}
	}
	return beside
}

// placed gives the mistakes of a document the setting that names it.
func placed(b *policy.Build, err error) error {
	found, ok := err.(config.Errors)
	if !ok {
		return policy.Wrong("file", "%v", err)
	}
	errs := make(config.Errors, len(found))
	for i, e := range found {
		at := *e
		at.Path = b.Path
		if e.Path != "" {
			at.Message = e.Path + ": " + e.Message
		}
		errs[i] = &at
	}
	return errs
}

// publicBase is what clients write before the document's paths, as far as the configuration tells: of the bases the one
// whose paths the route takes.
func (g *guard) publicBase(rc *config.Route) string {
	if rc == nil {
		return g.bases[0]
	}
	for _, base := range g.bases {
		for _, p := range rc.Match.Paths {
			if p = strings.TrimPrefix(p, "="); p == base || base != "" && strings.HasPrefix(p, base+"/") || strings.HasPrefix(base, p+"/") {
				return base
			}
		}
	}
	if g.strip && len(rc.Match.Paths) > 0 && strings.HasPrefix(rc.Match.Paths[0], "/") && !strings.Contains(rc.Match.Paths[0], "{") {
		return strings.TrimSuffix(rc.Match.Paths[0], "/") + g.bases[0]
	}
	return g.bases[0]
}

// state is the policy's part of one exchange.
type state struct {
	g      *guard
	op     *operation
	asked  bool // the head was looked at
	media  *media
	held   []byte // of the response
	tooBig bool
}

// Reset makes the state ready for the next exchange.
func (st *state) Reset() {
	held := st.held[:0]
	if cap(held) > maxIdle {
		held = nil
	}
	*st = state{held: held}
}

// maxIdle is how much memory for a response stays with an idle exchange.
const maxIdle = 16 << 10

var states = exchange.NewSlot[state]()

// tell writes what was found to the operator log, at a bounded rate.
func (g *guard) tell(x *exchange.Exchange, about, message string, f *fault) {
	g.log.Log(slog.LevelWarn, about, message, "route", g.route, "operation", f.operation, "found", f.Error(),
		"request_id", string(x.RequestID))
}

// fault is something that does not fit: where, and what would be right.
type fault struct {
	operation string
	status    int
	where     string
	what      string
	headers   []exchange.HeaderEdit
}

func (f *fault) Error() string {
	text := f.where + ": " + f.what
	if f.where == "" {
		text = f.what
	}
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// maxText bounds what is said: names in it may be the client's.
const maxText = 400

func wrong(where, format string, a ...any) *fault {
	return &fault{status: 400, where: where, what: fmt.Sprintf(format, a...)}
}
