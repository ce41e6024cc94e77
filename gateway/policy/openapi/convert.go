package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// Convert writes a configuration in which each path of a document is a route to the service at its servers. name is what
// the configuration is to call the document; server stands in for the document's servers if it is not empty.
func Convert(file, name, server string) ([]byte, error) {
	d, err := load(file)
	if err != nil {
		return nil, err
	}
	var described struct {
		Info    struct{ Title string }
		Servers []struct{ URL string }
	}
	if err := json.Unmarshal(d.json, &described); err != nil {
		return nil, err
	}
	urls := []string{server}
	if server == "" {
		urls = urls[:0]
		for _, s := range described.Servers {
			urls = append(urls, s.URL)
		}
	}
	endpoints, base, err := origins(file, urls)
	if err != nil {
		return nil, err
	}
	service := slug(described.Info.Title, "api")

	protocol := ""
	if strings.HasPrefix(endpoints[0], "https:") {
		protocol = "protocol: https, "
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "version: 1\n\nservices:\n  %s: {%sendpoints: [%s]}\n\nroutes:\n", service, protocol, quoted(endpoints))
	used := make(map[string]bool)
	for _, e := range d.paths.all() {
		route := slug(e.template, service)
		for n := 2; used[route]; n++ {
			route = slug(e.template, service) + "-" + strconv.Itoa(n)
		}
		used[route] = true
		var methods []string
		for m := range e.methods {
			methods = append(methods, m)
		}
		if e.methods["GET"] != nil && e.methods["HEAD"] == nil {
			methods = append(methods, "HEAD")
		}
		slices.Sort(methods)
		fmt.Fprintf(&b, "  %s: {match: {paths: [%s], methods: [%s]}, service: %s, openapi: {file: %s", route, quoted([]string{e.pattern(base)}),
			strings.Join(methods, ", "), service, quoted([]string{name}))
		if server != "" {
			fmt.Fprintf(&b, ", base_path: %s", quoted([]string{base + "/"}))
		}
		b.WriteString("}}\n")
	}
	return b.Bytes(), nil
}

// origins are the addresses of servers, all with the same path, which is returned too.
func origins(file string, urls []string) (endpoints []string, base string, err error) {
	fail := func(format string, a ...any) ([]string, string, error) {
		return nil, "", config.Errors{{Pos: config.Position{File: file}, Path: "servers", Message: fmt.Sprintf(format, a...)}}
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(text, "{}") {
			return fail("%q does not say where the service is; give its address with --server http://HOST:PORT/BASE", text)
		}
		path := strings.TrimSuffix(u.Path, "/")
		origin := u.Scheme + "://" + u.Host
		switch {
		case len(endpoints) == 0:
			base = path
		case path != base || strings.HasPrefix(endpoints[0], "https:") != (u.Scheme == "https"):
			continue // another place of the API, not another endpoint of this one
		}
		if !slices.Contains(endpoints, origin) {
			endpoints = append(endpoints, origin)
		}
	}
	if len(endpoints) == 0 {
		return fail("there are none, so that nothing says where the service is; give its address with --server http://HOST:PORT/BASE")
	}
	return endpoints, base, nil
}

// pattern is the path of the match of a route.
func (e *entry) pattern(base string) string {
	open, mixed := false, false
	for i := range e.segments {
		open = open || len(e.segments[i].names) > 0
		mixed = mixed || e.segments[i].pattern != nil || strings.ContainsAny(e.segments[i].literal, "*~") && len(e.segments[i].names) == 0
	}
	switch {
	case mixed:
		return "~^" + regexp.QuoteMeta(base) + parameterPattern(e.template) + "$"
	case open:
		return base + e.template
	}
	return "=" + base + e.template
}

// parameterPattern is a path with parameters as a regular expression.
func parameterPattern(template string) string {
	var b strings.Builder
	end := 0
	for _, at := range parameterName.FindAllStringIndex(template, -1) {
		b.WriteString(regexp.QuoteMeta(template[end:at[0]]) + "[^/]+")
		end = at[1]
	}
	return b.String() + regexp.QuoteMeta(template[end:])
}

var separators = regexp.MustCompile(`[^a-z0-9]+`)

// slug makes a name of a text.
func slug(text, otherwise string) string {
	name := strings.Trim(separators.ReplaceAllString(strings.ToLower(text), "-"), "-")
	if name == "" {
		return otherwise
	}
	return name
}

func quoted(texts []string) string {
	for i, t := range texts {
		texts[i] = strconv.Quote(t)
	}
	return strings.Join(texts, ", ")
}
