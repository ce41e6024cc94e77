package config

import (
	"strconv"
	"strings"
)

// RouteKong is what only routes of Kong have; it needs `compatibility: kong`. Files that `sluice convert` writes hold it.
type RouteKong struct {
	// RegexPriority orders routes whose paths are patterns, the higher first.
	RegexPriority int `yaml:"regex_priority" default:"0" min:"0" max:"2147483647"`
	// Path is put before the path that the service is asked for.
	Path string `yaml:"path" default:"/"`
	// PathHandling says how the two are joined.
	PathHandling string `yaml:"path_handling" enum:"v0|v1" default:"v0"`
	// PreserveHost sends the client's Host to the service.
	PreserveHost bool `yaml:"preserve_host" default:"false"`
	// HTTPSStatus answers requests that did not come by https: 426, or a redirect; 0 serves them.
	HTTPSStatus int `yaml:"https_status" enum:"0|301|302|307|308|426" default:"0"`
	// Calls says that the route is for calls of gRPC alone: `grpc`, or `grpcs` for those over TLS. Other requests get 415, those of HTTP/1.1 426.
	Calls string `yaml:"calls" enum:"any|grpc|grpcs" default:"any"`
	// Preflight false: OPTIONS requests are not authenticated.
	Preflight bool `yaml:"preflight" default:"true"`
	// Authentication says whether of several policies that authenticate any one that succeeds is enough, or all have to; then the last one says who calls.
	Authentication string `yaml:"authentication" enum:"any|all" default:"any"`
	// Realm in the challenges to clients. Default: Kong's.
	Realm string `yaml:"realm"`
	// HideGroups keeps X-Consumer-Groups from the service where groups are asked for.
	HideGroups bool `yaml:"hide_groups" default:"false"`
	// Errors are other answers than Kong's to what the gateway refuses, by its reason: rate_limited, address_not_allowed.
	Errors map[string]*ErrorKong `yaml:"errors"`
}

// ErrorKong is one of the gateway's own refusals.
type ErrorKong struct {
	// Status instead of the usual one; 0: the usual one.
	Status int `yaml:"status" default:"0" min:"0" max:"599"`
	// Message instead of the usual one.
	Message string `yaml:"message"`
}

// ConsumerKong is what a service is told of a consumer in compatibility with Kong; it needs `compatibility: kong`.
type ConsumerKong struct {
	// ID in X-Consumer-ID. Default: the consumer's name.
	ID string `yaml:"id"`
	// CustomID in X-Consumer-Custom-ID. Default: none.
	CustomID string `yaml:"custom_id"`
	// Username in X-Consumer-Username. Default: none.
	Username string `yaml:"username"`
	// Scoped are policies of the consumer at a route, a service, or a route of a service; they go before its own. Those of a route with its service go first, then a route's, then a service's.
	Scoped []ScopedKong `yaml:"scoped"`
	// Terminate answers its requests once they have passed all policies. Default: they go on to the service.
	Terminate *TerminateKong `yaml:"terminate"`
}

// TerminateKong is an answer in the place of the service's.
type TerminateKong struct {
	// Status of the answer.
	Status int `yaml:"status" default:"503" min:"200" max:"599"`
	// Body of the answer.
	Body string `yaml:"body"`
	// ContentType of the body.
	ContentType string `yaml:"content_type" default:"application/json; charset=utf-8"`
}

// ScopedKong are policies of a consumer at one place.
type ScopedKong struct {
	// Route whose requests they act on. Default: all.
	Route string `yaml:"route"`
	// Service whose requests they act on. Default: all.
	Service string `yaml:"service"`
	// Policies of the stages after Authenticate.
	Policies Policies `yaml:"policies"`
}

// kong checks what stands only in configurations in compatibility with Kong.
func (k *checker) kong(path string, written bool) {
	if written && k.c.Compatibility != "kong" {
		k.fail(path, "these settings are Kong's and have a meaning only in its compatibility; write compatibility: kong, or leave them out")
	}
}

// hostKong checks a host as Kong matches it: a wildcard at either end, a port.
func (k *checker) hostKong(path, host string) {
	name := host
	if h, port, ok := strings.Cut(host, ":"); ok && !strings.Contains(port, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			k.fail(path, "%q has no usable port; write api.example.com:8443", host)
			return
		}
		name = h
	}
	if strings.HasPrefix(name, "*.") {
		name = name[2:]
	} else {
		name = strings.TrimSuffix(name, ".*")
	}
	if !isHostName(name) && !isAuthority(name) || strings.Contains(name, "*") {
		k.fail(path, "%q is no host; write api.example.com, *.example.com, example.* or one of them with a port", host)
	}
}
