package waf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"

	crs "github.com/corazawaf/coraza-coreruleset/v4"

	"sluice/gateway/policy"
)

// ruleset is a compiled set of rules. It is shared by all places and
// generations with equal settings.
type ruleset struct {
	coraza.WAF
	// scoped are the path prefixes of exclusions that hold for some paths only, with the variable that switches each on.
	scoped []scope
	// blocking are the rules that end a transaction when they match.
	blocking map[int]bool
}

type scope struct {
	variable string
	paths    []string
}

// Close gives up the patterns that no other rule set shares.
func (r *ruleset) Close() error {
	if c, ok := r.WAF.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// directives are the parts of a rule set in the order in which they are read.
type directives struct {
	setup, own, update string
}

// generatedID is the number of the first rule that stands for an exclusion of some paths.
const generatedID = 99_990_000

// compose writes the rule set down, but for exclusions, and checks the own rules.
func compose(c *Config) (*directives, error) {
	d := &directives{setup: setup(c)}
	for i, text := range c.Rules {
		setting := fmt.Sprintf("rules[%d]", i)
		updates, err := classify(text)
		if err != nil {
			return nil, policy.Wrong(setting, "%v", err)
		}
		if updates {
			d.update += text + "\n"
			continue
		}
		if err := try(text); err != nil {
			return nil, policy.Wrong(setting, "%v", plain(err))
		}
		d.own += text + "\n"
	}
	return d, nil
}

// setup is what Coraza's recommended configuration and the Core Rule Set's
// example say, for APIs: more methods and content types, and Expect, which the
// gateway deals with itself.
func setup(c *Config) string {
	engine, responses := "On", "Off"
	if c.Mode == "detect" {
		engine = "DetectionOnly"
	}
	if c.ResponseBodies {
		responses = "On"
	}
	// A body of exactly the limit is whole: Coraza's limit is one more.
	s := fmt.Sprintf(`SecRuleEngine %s
SecAuditEngine Off
SecRequestBodyAccess On
SecRequestBodyLimit %d
SecRequestBodyInMemoryLimit %[2]d
SecRequestBodyLimitAction ProcessPartial
SecRequestBodyJsonDepthLimit 128
SecArgumentsLimit 1000
SecResponseBodyAccess %[3]s
SecResponseBodyMimeType text/plain text/html text/xml application/xml application/json application/problem+json
SecResponseBodyLimit %[4]d
SecResponseBodyLimitAction ProcessPartial
SecDefaultAction "phase:3,log,noauditlog,pass"
SecDefaultAction "phase:4,log,noauditlog,pass"
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/[a-z0-9.-]+[+]json" "id:200006,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule REQUEST_HEADERS:Content-Type "@rx ^text/plain" "id:200010,phase:1,t:none,t:lowercase,pass,nolog,ctl:forceRequestBodyVariable=On"
SecRule &REQUEST_HEADERS:Content-Type "@eq 0" "id:200011,phase:1,t:none,pass,nolog,ctl:forceRequestBodyVariable=On"
SecRule INBOUND_DATA_ERROR "!@eq 1" "id:200002,phase:2,t:none,log,deny,status:400,severity:2,msg:'Failed to parse request body',chain"
SecRule REQBODY_ERROR "!@eq 0" "t:none"
SecRule INBOUND_DATA_ERROR "!@eq 1" "id:200003,phase:2,t:none,log,deny,status:400,severity:2,msg:'Multipart request body failed strict validation',chain"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" "t:none"
SecRule ARGUMENTS_LIMIT_REACHED "@eq 1" "id:200012,phase:2,t:none,log,deny,status:400,severity:2,msg:'Too many arguments'"
`, engine, int64(c.BodyLimit)+1, responses, int64(c.ResponseLimit))
	if c.Ruleset == "none" {
		return s + `SecDefaultAction "phase:1,log,noauditlog,pass"
SecDefaultAction "phase:2,log,noauditlog,pass"
`
	}
	return s + fmt.Sprintf(`Include @crs-setup.conf.example
SecAction "id:900000,phase:1,pass,t:none,nolog,setvar:tx.blocking_paranoia_level=%d,setvar:tx.inbound_anomaly_score_threshold=%d"
SecAction "id:900200,phase:1,pass,t:none,nolog,setvar:'tx.allowed_methods=GET HEAD POST OPTIONS PUT PATCH DELETE'"
SecAction "id:900220,phase:1,pass,t:none,nolog,setvar:'tx.allowed_request_content_type=|application/x-www-form-urlencoded| |multipart/form-data| |text/xml| |application/xml| |application/soap+xml| |application/json| |application/json-patch+json| |application/merge-patch+json| |application/ld+json| |application/vnd.api+json| |text/plain| |application/octet-stream|'"
SecAction "id:900250,phase:1,pass,t:none,nolog,setvar:'tx.restricted_headers_basic=/content-encoding/ /proxy/ /lock-token/ /content-range/ /if/ /x-http-method-override/ /x-http-method/ /x-method-override/ /x-middleware-subrequest/'"
Include @owasp_crs/REQUEST-901-INITIALIZATION.conf
`, c.Paranoia, c.Threshold)
}

// included are the files of the Core Rule Set behind the own rules.
func included(responses bool) string {
	var s strings.Builder
	files, err := fs.ReadDir(crs.FS, "@owasp_crs") // sorted, which is the order they are made for
	if err != nil {
		panic("BUG: the Core Rule Set can not be read: " + err.Error())
	}
	for _, f := range files {
		name := f.Name()
		request := strings.HasPrefix(name, "REQUEST-") && !strings.HasPrefix(name, "REQUEST-901")
		response := responses && strings.HasPrefix(name, "RESPONSE-") && !strings.HasPrefix(name, "RESPONSE-980")
		if strings.HasSuffix(name, ".conf") && (request || response) {
			s.WriteString("Include @owasp_crs/" + name + "\n")
		}
	}
	return s.String()
}

// compile makes the rule set. With exclusions it is compiled twice: what they
// name must exist, and the second time costs little since patterns are shared.
func compile(c *Config) (*ruleset, error) {
	d, err := compose(c)
	if err != nil {
		return nil, err
	}
	rest := ""
	if c.Ruleset == "crs" {
		rest = included(c.ResponseBodies)
	}
	var known rulebook
	waf, err := load(d.setup+d.own+rest+d.update, known.add)
	if err != nil {
		return nil, policy.Wrong("rules", "%v", plain(err))
	}
	r := &ruleset{WAF: waf, blocking: known.blocking}
	if len(c.Exclude) == 0 {
		return r, nil
	}
	defer func(first *ruleset) { _ = first.Close() }(&ruleset{WAF: waf})
	scoped, after, generated := "", "", generatedID
	for i := range c.Exclude {
		e := &c.Exclude[i]
		ids, err := known.named(e.Rules)
		if err != nil {
			return nil, policy.Wrong(fmt.Sprintf("exclude[%d].rules", i), "%v", err)
		}
		for j, t := range e.Targets {
			if !validTarget.MatchString(t) {
				return nil, policy.Wrong(fmt.Sprintf("exclude[%d].targets[%d]", i, j), "%q is no target; write it as ARGS:comment", t)
			}
		}
		if len(e.Paths) == 0 {
			after += e.remove(ids)
			continue
		}
		for j, p := range e.Paths {
			if !strings.HasPrefix(p, "/") {
				return nil, policy.Wrong(fmt.Sprintf("exclude[%d].paths[%d]", i, j), "%q is no path; it begins with /", p)
			}
		}
		s := scope{variable: "sluice_exclude_" + strconv.Itoa(i), paths: e.Paths}
		r.scoped = append(r.scoped, s)
		for chunk := range slices.Chunk(ids, 50) {
			scoped += e.control(chunk, s.variable, generated)
			generated++
		}
	}
	if r.WAF, err = load(d.setup+scoped+d.own+rest+d.update+after, nil); err != nil {
		return nil, policy.Wrong("exclude", "%v", plain(err))
	}
	return r, nil
}

// remove takes rules out for all requests.
func (e *Exclusion) remove(ids []int) string {
	var s strings.Builder
	for _, id := range ids {
		if len(e.Targets) == 0 {
			fmt.Fprintf(&s, "SecRuleRemoveById %d\n", id)
		}
		for _, t := range e.Targets {
			fmt.Fprintf(&s, "SecRuleUpdateTargetById %d \"!%s\"\n", id, t)
		}
	}
	return s.String()
}

// control takes rules out for requests that have the variable set.
func (e *Exclusion) control(ids []int, variable string, id int) string {
	var s strings.Builder
	fmt.Fprintf(&s, `SecRule TX:%s "@eq 1" "id:%d,phase:1,t:none,pass,nolog`, variable, id)
	for _, id := range ids {
		if len(e.Targets) == 0 {
			fmt.Fprintf(&s, ",ctl:ruleRemoveById=%d", id)
		}
		for _, t := range e.Targets {
			fmt.Fprintf(&s, ",ctl:ruleRemoveTargetById=%d;%s", id, t)
		}
	}
	s.WriteString("\"\n")
	return s.String()
}

var validTarget = regexp.MustCompile(`^[A-Z_]+(:[A-Za-z0-9_.$@-]+)?$`)

// rulebook is what rules there are.
type rulebook struct {
	ids      []int
	tags     map[string][]int
	blocking map[int]bool
}

var blocks = regexp.MustCompile(`(?i)[",'\s](?:deny|drop|redirect:)`)

func (k *rulebook) add(r types.RuleMetadata) {
	if r.ID() == 0 {
		return // a link of a chain
	}
	if k.tags == nil {
		k.tags, k.blocking = make(map[string][]int), make(map[int]bool)
	}
	if blocks.MatchString(r.Raw()) {
		k.blocking[r.ID()] = true
	}
	k.ids = append(k.ids, r.ID())
	for _, t := range r.Tags() {
		k.tags[t] = append(k.tags[t], r.ID())
	}
}

// named returns the rules that numbers, ranges and tags stand for.
func (k *rulebook) named(names []string) ([]int, error) {
	var ids []int
	for _, name := range names {
		found := k.tags[name]
		if lowest, highest, ok := span(name); ok {
			for _, id := range k.ids {
				if lowest <= id && id <= highest {
					found = append(found, id)
				}
			}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%q is no number, range or tag of a rule in force here", name)
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func span(name string) (lowest, highest int, ok bool) {
	first, last, ranged := strings.Cut(name, "-")
	if !ranged {
		last = first
	}
	lowest, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0, false
	}
	highest, err = strconv.Atoi(last)
	return lowest, highest, err == nil
}

// allowed are the directives of own rules; what else there is says how the engine runs, and that is the gateway's.
var allowed = map[string]bool{"secrule": false, "secaction": false, "secmarker": false}

// reaching are operators that start programs or ask the network while a request waits.
var reaching = regexp.MustCompile(`(?i)@(inspectFile|rbl|fuzzyHash)\b|\bexec:`)

// classify reads the names of the directives. updates tells that they change
// rules of the rule set, and so stand behind it.
func classify(text string) (updates bool, err error) {
	count, continued := 0, false
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		follows := continued
		continued = strings.HasSuffix(line, `\`)
		if follows {
			continue
		}
		name, _, _ := strings.Cut(strings.ToLower(line), " ")
		update := strings.HasPrefix(name, "secruleupdate") || strings.HasPrefix(name, "secruleremove")
		if _, ok := allowed[name]; !ok && !update {
			return false, fmt.Errorf("%.40q is not allowed here; rules are made of SecRule, SecAction, SecMarker, SecRuleUpdate… and SecRuleRemove…", strings.Fields(line)[0])
		}
		if count > 0 && update != updates {
			return false, errors.New("mixes rules with directives that change rules; make them two elements")
		}
		updates = update
		count++
	}
	if err := lines.Err(); err != nil {
		return false, errors.New("has a line that is too long")
	}
	if count == 0 {
		return false, errors.New("is empty")
	}
	if continued {
		return false, errors.New("ends in the middle of a directive")
	}
	if m := reaching.FindString(text); m != "" {
		return false, fmt.Errorf("%s starts programs or asks the network, which is not allowed here", m)
	}
	return updates, nil
}

// try compiles own rules alone, so that a mistake is found where it is.
func try(text string) error {
	w, err := load(text, nil)
	if err != nil {
		return err
	}
	return (&ruleset{WAF: w}).Close()
}

func load(text string, observe func(types.RuleMetadata)) (coraza.WAF, error) {
	c := coraza.NewWAFConfig().WithRootFS(crs.FS).WithDirectives(text)
	if observe != nil {
		c = experimental.WAFConfigWithRuleObserver(c, observe)
	}
	return coraza.NewWAF(c)
}

// plain is the engine's complaint on one line, without what it says of itself.
func plain(err error) string {
	s := strings.TrimPrefix(err.Error(), "invalid WAF config from string: ")
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}
