package config

import (
	"strings"
	"testing"
)

func TestSourcesFailure(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := Parse("a.yaml", []byte("sources: "+text), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	f("{kubernetes: {resources: [pods]}}", "httproutes")
	f("{kubernetes: {resources: []}}", "nothing is to be followed")
	f("{kubernetes: {namespaces: [A]}}", `a.yaml:1:37: sources.kubernetes.namespaces[0]: "A" is no name of Kubernetes`)
	f("{kubernetes: {namespaces: [a, a]}}", "stands here twice")
	f("{kubernetes: {gateway: a/b/c}}", "names no Gateway")
	f(`{kubernetes: {gateway: ""}}`, "names no Gateway")
	f(`{kubernetes: {ingress_class: ""}}`, "the name is empty")
	f("{kubernetes: {server: example.com}}", "is no URL")
	f("{kubernetes: {hosts: [a/b]}}", "is more than a host")
	f("{consul: {path_prefixes: [x]}}", "does not begin with a slash")
	f("{consul: {path_prefixes: [=/x]}}", "is no prefix")
	f("{consul: {address: x}}", "is no URL")
	f("{etcd: {}}", "unknown setting")
}

// What sources are asked is known before the rest of the configuration is, and with it broken.
func TestSourcesAreReadAlone(t *testing.T) {
	f := func(o Options, want string, files ...string) {
		t.Helper()
		var in Input
		for _, text := range files {
			in.Files = append(in.Files, File{Name: "f.yaml", Data: []byte(text)})
		}
		s, err := in.Sources(o)
		got := "off"
		switch {
		case err != nil:
			got = "error"
		case !s.Kubernetes.Off:
			got = s.Kubernetes.Gateway
		}
		if got != want {
			t.Errorf("%v: %s, want %s", files, got, want)
		}
	}
	f(Options{}, "off", "version: 1")
	f(Options{}, "sluice", "version: 1", "sources: {kubernetes: {}}\nroutes: {r: {service: none}}")
	f(Options{}, "edge", "sources: {kubernetes: {gateway: edge}}")
	f(Options{Set: []string{"sources.kubernetes.gateway=edge"}}, "edge", "version: 1")
	f(Options{Environ: []string{"SLUICE_SET__SOURCES__KUBERNETES__GATEWAY=edge"}}, "edge", "version: 1")
	f(Options{}, "error", "sources: {")
	f(Options{}, "error", "sources: {kubernetes: {nonsense: 1}}")
}
