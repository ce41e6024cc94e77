// Package waf inspects requests, and responses where it is told to, with the
// rule engine Coraza and the OWASP Core Rule Set. Rules are compiled when the
// configuration is loaded and shared by all places with equal settings. What
// it inspects is bounded, and what it tells of a request is the numbers of the
// rules that matched: never a value, which may be a secret.
package waf

import (
	"fmt"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `waf`. A request that is blocked gets 403 without a reason, or 400 if its body can not be
// parsed; which rules matched stands in the access log's `reason` and in `sluice_waf_matches_total`.
type Config struct {
	// Mode `detect` lets everything pass and only counts and logs what `block` would have refused.
	Mode string `yaml:"mode" default:"block" enum:"block|detect"`
	// Ruleset is the OWASP Core Rule Set (crs), or nothing but `rules` (none).
	Ruleset string `yaml:"ruleset" default:"crs" enum:"crs|none"`
	// Paranoia is the level of the Core Rule Set: each one finds more, and more that is harmless.
	Paranoia int `yaml:"paranoia" default:"1" min:"1" max:"4"`
	// Threshold is the score from which the Core Rule Set blocks a request; a critical match counts 5.
	Threshold int `yaml:"threshold" default:"5" min:"1" max:"10000"`
	// Rules are own rules in SecLang, each element one or more of SecRule, SecAction and SecMarker, or of SecRuleUpdate… and
	// SecRuleRemove… for what the rule set brings. They run before the rule set, whose variables they may set
	// (`setvar:tx.allowed_methods=GET`).
	Rules []string `yaml:"rules"`
	// BodyLimit is how much of a request body is inspected. Forms, multipart, JSON, XML, plain text and bodies without a type are;
	// others pass unread. Inspecting costs milliseconds of a processor for each KiB of text.
	BodyLimit config.Size `yaml:"body_limit" default:"128KiB" min:"1" max:"16MiB"`
	// OverLimit is what happens to a larger body: `reject` answers 413, `partial` inspects the part within the limit and lets the rest
	// pass. In mode `detect` it is always `partial`.
	OverLimit string `yaml:"over_limit" default:"reject" enum:"reject|partial"`
	// ResponseBodies turns the inspection of responses on: text, HTML, XML and JSON. They are held back until they are inspected,
	// and the backend is asked not to compress. What is found in a body that streams ends the connection instead of a 403.
	ResponseBodies bool `yaml:"response_bodies"`
	// ResponseLimit is how much of a response body is inspected; the rest passes.
	ResponseLimit config.Size `yaml:"response_limit" default:"128KiB" min:"1" max:"16MiB"`
	// Exclude takes rules out: a rule's number, a range as 942100-942199, a tag as attack-sqli, or a block.
	Exclude []Exclusion `yaml:"exclude"`
}

// Exclusion takes rules out, everywhere or for some paths, wholly or for some targets. A text stands for `rules`.
type Exclusion struct {
	// Rules are numbers, ranges as 942100-942199, or tags as attack-sqli.
	Rules config.StringList `yaml:"rules" required:"true"`
	// Paths are the prefixes of paths, by segments, that it is for; default: all.
	Paths config.StringList `yaml:"paths"`
	// Targets are what the rules no longer look at, as ARGS:comment or REQUEST_COOKIES:session; default: everything.
	Targets config.StringList `yaml:"targets"`
}

// Shorthand names the setting that a text stands for.
func (Exclusion) Shorthand() string { return "rules" }

// Definition is the policy `waf`.
var Definition = policy.Define("waf", policy.Inspect, build)

var (
	rejectBlocked   = exchange.NewReject(403, "waf", "the request was refused")
	rejectUnread    = exchange.NewReject(403, "waf", "the request was refused")
	rejectMalformed = exchange.NewReject(400, "waf", "the request body can not be parsed")
	rejectResponse  = exchange.NewReject(403, "waf_response", "the response was refused")
)

func init() {
	// The body was not read to its end, so the connection can not carry another request.
	rejectUnread.Close = true
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	if c.Ruleset == "none" && len(c.Rules) == 0 {
		return policy.Hooks{}, policy.Wrong("ruleset", "is none and there are no rules; give rules, or off")
	}
	rules, err := policy.LivingAs(b.World, "waf/"+identity(c), func() (*ruleset, error) { return compile(c) })
	if err != nil {
		return policy.Hooks{}, err
	}
	if c.Mode == "block" && c.OverLimit == "partial" {
		b.Warnf("over_limit", "lets an attack pass that stands behind the first %s of a body", c.BodyLimit)
	}
	f := &firewall{
		rules: rules, detect: c.Mode == "detect", limit: int(c.BodyLimit), responses: c.ResponseBodies, most: int(c.ResponseLimit),
		report: newReport(b),
	}
	f.partial = f.detect || c.OverLimit == "partial"
	hooks := policy.Hooks{Request: f.request, Response: f.response, Done: f.done, Blocking: true}
	return hooks, nil
}

// identity names what decides how the rules are compiled.
func identity(c *Config) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s %d %d %d %t %d %q", c.Mode, c.Ruleset, c.Paranoia, c.Threshold, c.BodyLimit, c.ResponseBodies, c.ResponseLimit, c.Rules)
	for _, e := range c.Exclude {
		fmt.Fprintf(&s, " %q %q %q", []string(e.Rules), []string(e.Paths), []string(e.Targets))
	}
	return s.String()
}
