package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

func (k *checker) route(path string, r *Route) {
	c := k.c
	k.name(path, r.Name)
	switch actions := r.actions(); len(actions) {
	case 0:
		k.fail(path, "nothing ends this route; write service: NAME, or one of split, aggregate, grpc, graphql, websocket, redirect, respond, health")
	case 1:
	default:
		names := make([]string, len(actions))
		for i, a := range actions {
			names[i] = a.name
		}
		k.fail(path, "%s end this route; keep one of them", strings.Join(names, " and "))
	}
	if r.OpenAPI != nil && r.Policies["openapi"] != r.OpenAPI {
		k.fail(path+".openapi", "stands under policies too; keep one of the two")
	}
	if r.Service != "" {
		reference(k, path+".service", "service", r.Service, c.Services)
	}
	at := path + ".match"
	k.kong(path+".kong", r.Kong != nil)
	hosts := k.host
	if c.Compatibility == "kong" {
		hosts = k.hostKong
	}
	for i, host := range r.Match.Hosts {
		hosts(joinIndex(at+".hosts", i), host)
	}
	for i, name := range r.Match.SNIs {
		k.host(joinIndex(at+".snis", i), name)
	}
	params := make([]map[string]bool, 0, len(r.Match.Paths))
	for i, p := range r.Match.Paths {
		names, problem := pathProblem(p)
		if problem != "" {
			k.fail(joinIndex(at+".paths", i), "%s", problem)
			continue
		}
		params = append(params, names)
	}
	for i, method := range r.Match.Methods {
		switch upper := strings.ToUpper(method); {
		case !isToken(method):
			k.fail(joinIndex(at+".methods", i), "%q is no method; write GET", method)
		case method != upper:
			k.fail(joinIndex(at+".methods", i), "methods have upper case letters; write %s", upper)
		}
	}
	for name, values := range r.Match.Headers {
		where := joinKey(at+".headers", name)
		if !isToken(name) {
			k.fail(where, "%q can not be the name of a header", name)
		}
		k.values(where, values)
	}
	for name, values := range r.Match.Query {
		k.values(joinKey(at+".query", name), values)
	}
	for i, name := range r.Match.Listeners {
		reference(k, joinIndex(at+".listeners", i), "listener", name, c.Listeners)
	}
	if r.Rewrite != "" {
		k.rewrite(path+".rewrite", r.Rewrite, params)
	}
	if r.Retries != nil {
		k.retryOn(path+".retries.when", r.Retries.When)
	}
	for status, page := range r.Errors {
		where := joinKey(path+".errors", fmt.Sprint(status))
		if status < 400 || status > 599 {
			k.fail(where, "%d is not the status of an error, 400 to 599", status)
		}
		if page != nil && strings.ContainsFunc(page.ContentType, unicode.IsControl) {
			k.fail(where+".content_type", "the content type has control characters")
		}
	}
}

func (k *checker) host(path, host string) {
	name := strings.TrimPrefix(host, "*.")
	switch {
	case host == "*":
		k.fail(path, "every host is what a route without hosts matches; leave hosts out")
	case strings.Contains(name, "*"):
		k.fail(path, "%q: a wildcard stands for the first labels only; write *.example.com", host)
	case strings.Contains(host, "/"):
		k.fail(path, "%q is more than a host; write it as api.example.com", host)
	case isHostName(name):
	default:
		if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && name == host {
			return
		}
		if h, _, ok := strings.Cut(host, ":"); ok && isHostName(strings.TrimPrefix(h, "*.")) {
			k.fail(path, "a host is matched without its port; write %s", h)
			return
		}
		k.fail(path, "%q is no host; write api.example.com or *.example.com", host)
	}
}

var (
	wholeParameter = regexp.MustCompile(`^\{[A-Za-z_][A-Za-z0-9_]*\}$`)
	escaped        = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	placeholder    = regexp.MustCompile(`\{([^{}]*)\}`)
)

// withoutParameters are those of most paths. It is shared.
var withoutParameters = map[string]bool{"path": true}

// pathProblem says what is wrong with a path of a match, or returns its parameters, which are only to be read.
func pathProblem(p string) (params map[string]bool, problem string) {
	params = withoutParameters
	if pattern, ok := strings.CutPrefix(p, "~"); ok {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Sprintf("%q is no regular expression: %s", pattern, regexpProblem(err))
		}
		params = maps.Clone(params)
		for _, name := range re.SubexpNames() {
			params[name] = true
		}
		return params, ""
	}
	literal, exact := strings.CutPrefix(p, "=")
	switch {
	case !strings.HasPrefix(literal, "/"):
		if exact {
			return nil, fmt.Sprintf("%q does not begin with a slash; write =/%s", p, literal)
		}
		return nil, fmt.Sprintf("%q does not begin with a slash; write /%s, =/exact or ~^/regex$", p, literal)
	case strings.ContainsAny(literal, "?#"):
		return nil, fmt.Sprintf("%q has a query or a fragment; conditions on the query stand under match.query", p)
	case strings.ContainsFunc(literal, unicode.IsControl):
		return nil, "the path has control characters"
	case strings.Contains(literal, "%") && escaped.MatchString(literal):
		return nil, fmt.Sprintf("%q is percent-encoded, and paths are matched decoded; write the character itself", p)
	case strings.Contains(literal, "//"):
		return nil, fmt.Sprintf("%q has an empty segment, which no request path has", p)
	}
	for segment := range strings.SplitSeq(literal[1:], "/") {
		switch {
		case segment == "." || segment == "..":
			return nil, fmt.Sprintf("%q has the segment %s, which no request path has", p, segment)
		case exact:
		case segment == "*" || segment == "**":
			return nil, fmt.Sprintf("%q: a prefix needs no *; write the path before it, or {name} for one segment", p)
		case wholeParameter.MatchString(segment):
			name := segment[1 : len(segment)-1]
			if name == "path" {
				return nil, fmt.Sprintf("%q: {path} is what follows the matched prefix; give the parameter another name", p)
			}
			if params[name] {
				return nil, fmt.Sprintf("%q has the parameter {%s} twice", p, name)
			}
			if len(params) == len(withoutParameters) {
				params = maps.Clone(params)
			}
			params[name] = true
		case strings.ContainsAny(segment, "{}"):
			return nil, fmt.Sprintf("%q: a parameter is a whole segment, as /users/{id}/orders; use ~^/regex$ for more", p)
		}
	}
	return params, ""
}

func regexpProblem(err error) string {
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// values checks what a header or query parameter is compared with.
func (k *checker) values(path string, values StringList) {
	if len(values) == 0 {
		k.fail(path, "there is no value to compare with; write \"*\" for presence")
	}
	for i, value := range values {
		at := path
		if k.c.tree.locate(path).kind == sequence {
			at = joinIndex(path, i)
		}
		if strings.ContainsFunc(value, unicode.IsControl) {
			k.fail(at, "the value has control characters")
		}
		if pattern, ok := strings.CutPrefix(value, "~"); ok {
			if _, err := regexp.Compile(pattern); err != nil {
				k.fail(at, "%q is no regular expression: %s", pattern, regexpProblem(err))
			}
		}
	}
}

func (k *checker) rewrite(path, rewrite string, params []map[string]bool) {
	if !strings.HasPrefix(rewrite, "/") || strings.ContainsAny(rewrite, "?#") || strings.ContainsFunc(rewrite, unicode.IsControl) {
		k.fail(path, "%q is no path; write it as /internal/{path}", rewrite)
		return
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(rewrite, ""), "{}") {
		k.fail(path, "%q has a brace without its other half", rewrite)
		return
	}
	for _, match := range placeholder.FindAllStringSubmatch(rewrite, -1) {
		name := match[1]
		missing := func(have map[string]bool) bool { return !have[name] }
		if name == "" || name != "path" && (len(params) == 0 || slices.ContainsFunc(params, missing)) {
			k.fail(path, "{%s} is not a parameter of every path of the match; {path} is what follows the matched prefix", name)
		}
	}
}

// isToken tells whether s can be a method or the name of a header (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}
