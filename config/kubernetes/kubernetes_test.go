package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sluice/config"
)

func load(text string, more ...string) (*config.Config, error) {
	in := config.Input{Files: []config.File{{Name: "objects.yaml", Data: []byte(text)}}}
	for i, m := range more {
		in.Files = append(in.Files, config.File{Name: fmt.Sprint("more", i, ".yaml"), Data: []byte(m)})
	}
	return in.Load(config.Options{Manifests: Translate})
}

const shop = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: prod}
spec:
  parentRefs: [{name: edge}]
  hostnames: [shop.example.com]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /cart/}
      method: POST
      headers: [{name: X-Stage, value: canary}, {type: RegularExpression, name: X-N, value: "[0-9]+"}]
      queryParams: [{name: debug, value: "*"}]
    - path: {type: Exact, value: /checkout}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: X-B, value: b}], remove: [X-C]}
    - type: RequestMirror
      requestMirror: {backendRef: {name: spy, port: 80}, percent: 10}
    backendRefs: [{name: cart, port: 8080, weight: 9}, {name: cart-next, port: 8080, weight: 1}]
    timeouts: {request: 10s}
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
    backendRefs: [{name: cart, port: 8080}]
  - matches: [{path: {value: /away}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: other.example.com, statusCode: 301}
  - matches: [{path: {type: RegularExpression, value: "/v[0-9]/.*"}}]
---
# A comment, and an object of another kind.
apiVersion: v1
kind: Service
metadata: {name: cart}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  annotations: {nginx.ingress.kubernetes.io/rewrite-target: /}
spec:
  tls: [{hosts: [web.example.com], secretName: x}]
  rules:
  - host: web.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /exact, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
`

func TestSuccess(t *testing.T) {
	c, err := load(shop)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.Routes)) {
		r := c.Routes[name]
		fmt.Fprintf(&got, "%s: %v %v %v %v %v", name, r.Match.Hosts, r.Match.Paths, r.Match.Methods, r.Match.Headers, r.Match.Query)
		kind, block := r.Action()
		fmt.Fprintf(&got, " %s %s", kind, r.Service)
		if block != nil {
			fmt.Fprintf(&got, "%s", block.Canonical())
		}
		if r.Rewrite != "" {
			fmt.Fprintf(&got, " rewrite %s", r.Rewrite)
		}
		for _, p := range slices.Sorted(maps.Keys(r.Policies)) {
			fmt.Fprintf(&got, " %s %s", p, r.Policies[p].Canonical())
		}
		if r.Timeouts != nil {
			fmt.Fprintf(&got, " within %s", *r.Timeouts.Response)
		}
		got.WriteByte('\n')
	}
	policies := ` mirror {"sample":0.1,"service":"prod/spy:80"} request_transform {"add":{"headers":{"X-A":"a"}},"append":{"headers":{"X-B":"b"}},"remove":{"headers":["X-C"]},"replace":{"headers":{"X-A":"a"}}} within 10s`
	split := ` split {"services":[{"service":"prod/cart:8080","weight":9},{"service":"prod/cart-next:8080","weight":1}]}`
	want := `default/web: [web.example.com] [/] [] map[] map[] service default/web:80
default/web/2: [web.example.com] [=/exact] [] map[] map[] service default/web:80
prod/shop: [shop.example.com] [/cart] [POST] map[X-N:[~^(?:[0-9]+)$] X-Stage:[canary]] map[debug:[~^\*$]]` + split + policies + `
prod/shop/2: [shop.example.com] [=/checkout] [] map[] map[]` + split + policies + `
prod/shop/3: [shop.example.com] [=/old] [] map[] map[] service prod/cart:8080 rewrite /new
prod/shop/4: [shop.example.com] [/old] [] map[] map[] service prod/cart:8080 rewrite /new/{path}
prod/shop/5: [shop.example.com] [/away] [] map[] map[] redirect {"status":301,"to":"https://other.example.com${uri}"}
prod/shop/6: [shop.example.com] [~^(?:/v[0-9]/.*)$] [] map[] map[] respond {"status":500}
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	if s := c.Services["prod/cart:8080"]; s == nil || s.Endpoints[0].URL != "http://cart.prod.svc:8080" || !s.PassHost {
		t.Errorf("%+v", s)
	}
	var remarks strings.Builder
	for _, r := range c.Remarks() {
		fmt.Fprintln(&remarks, r.Error())
	}
	for _, want := range []string{"objects.yaml:33:1: kind: objects of the kind Service are not looked at", "rewrite-target is another controller's", "spec.tls: certificates are the listeners'"} {
		if !strings.Contains(remarks.String(), want) {
			t.Errorf("remarks %s, want %s", remarks.String(), want)
		}
	}
}

// A native service of the name goes before the one that objects make.
func TestNativeServiceIsPreferred(t *testing.T) {
	c, err := load(shop, `services: {"prod/cart:8080": {endpoints: ["http://10.0.0.1:80"]}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Services["prod/cart:8080"].Endpoints[0].URL; got != "http://10.0.0.1:80" {
		t.Error(got)
	}
}

func TestFailure(t *testing.T) {
	f := func(spec, want string) {
		t.Helper()
		_, err := load("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: " + spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
	f("{rules: [{backendRefs: [{name: a}]}]}", "objects.yaml:4:31: spec.rules[0].backendRefs[0]: the backend a needs the number of its port")
	f("{rules: [{backendRefs: [{name: a, port: 1, namespace: other}]}]}", "backends of other namespaces")
	f("{rules: [{backendRefs: [{name: a, port: 1, kind: Bucket}]}]}", "a backend is a Service")
	f("{rules: [{backendRefs: [{name: a, port: 1, filters: [{}]}]}]}", "filters: this is not supported")
	f("{rules: [{filters: [{type: CORS}]}]}", `the filter "CORS" is not supported`)
	f("{rules: [{filters: [{type: URLRewrite, urlRewrite: {hostname: x}}]}]}", "hostname: this is not supported")
	f("{rules: [{retry: {attempts: 1}}]}", "retry: this is not supported")
	f("{rules: [{matches: [{path: {type: Glob, value: /}}]}]}", `"Glob" is no type of a path`)
	f("{rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: A, value: \"${claim.sub}\"}]}}]}]}", "would be filled in for each request")
	if _, err := load("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {name: http}}}}]}}]}"); err == nil || !strings.Contains(err.Error(), "needs the number of its port") {
		t.Error(err)
	}
	if _, err := config.Parse("x.yaml", []byte(shop), config.Options{}); err == nil || !strings.Contains(err.Error(), "not understood here") {
		t.Error(err)
	}
	if _, err := load("apiVersion: v1\nkind: X\n---\napiVersion: [\n"); err == nil || !strings.Contains(err.Error(), "objects.yaml:") {
		t.Error(err)
	}
}

// What the API server tells has names of its own, and sections of the gateway are listeners.
func TestTold(t *testing.T) {
	f := func(object, want string) {
		t.Helper()
		in := config.Input{
			Files:   []config.File{{Name: "a.yaml", Data: []byte("listeners: {a: {address: \":1\"}, b: {address: \":2\"}}")}},
			Objects: map[string]config.Object{"o": {Source: "kubernetes", Data: []byte(object)}},
		}
		c, err := in.Load(config.Options{Objects: map[string]config.ManifestTranslator{"kubernetes": TranslateTold}})
		var got []string
		if err != nil {
			got = append(got, err.Error())
		} else {
			for _, name := range slices.Sorted(maps.Keys(c.Routes)) {
				r := c.Routes[name]
				got = append(got, fmt.Sprint(name, r.Match.Paths, r.Match.Listeners, r.Service, c.Services[r.Service].Endpoints[0].URL, r.Source))
			}
		}
		if all := strings.Join(got, "; "); !strings.Contains(all, want) {
			t.Errorf("%s, want %s", all, want)
		}
	}
	route := func(parents, path string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"x.y","namespace":"ns"},"spec":{"parentRefs":[` + parents + `],"rules":[{"matches":[` + path + `],"backendRefs":[{"name":"s","port":80}]}]}}`
	}
	path := `{"path":{"value":"/a"}}`
	f(route(`{"name":"g"}`, path+`,{"path":{"value":"/b"}}`), "kubernetes.ns.x.y[/a] []kubernetes.ns.s:80http://s.ns.svc:80kubernetes; kubernetes.ns.x.y/2[/b] []")
	f(route(`{"name":"g","sectionName":"b"},{"name":"g","sectionName":"a"}`, path), "kubernetes.ns.x.y[/a] [a b]")
	f(route(`{"name":"g","sectionName":"b"},{"name":"g"}`, path), "kubernetes.ns.x.y[/a] []")
	f(route(`{"name":"g","sectionName":"c"}`, path), `there is no listener "c"`)
	f(route(`{"name":"g","port":8080}`, path), "port: this is not supported")
	f(route(`{"name":"g"}`, `{"path":{"value":"/a/{b}"}}`), "the path has braces")
	f(route(`{"name":"g"}`, `{"path":{"value":"~^/.*"}}`), "does not begin with a slash")
	f(`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"x.y","namespace":"ns"},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}`,
		"kubernetes.ns.ingress/x.y/default[] []kubernetes.ns.s:80")
	f(`{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"${HOME}","namespace":"ns"},"spec":{"rules":[{"host":"${HOME}.test","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"s","port":{"number":80}}}}]}}]}}`, "is no host")
}

// One object that may be written by anybody of a namespace kept the gateway busy for as long as the square of its routes.
func TestToldObjectsAreBounded(t *testing.T) {
	f := func(n int, want string) {
		t.Helper()
		var paths []string
		for i := range n {
			paths = append(paths, fmt.Sprintf(`{"path":"/%d","pathType":"Prefix","backend":{"service":{"name":"s%d","port":{"number":80}}}}`, i, i))
		}
		object := `{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"x","namespace":"ns"},"spec":{"rules":[{"http":{"paths":[` + strings.Join(paths, ",") + `]}}]}}`
		in := config.Input{Objects: map[string]config.Object{"o": {Source: "kubernetes", Data: []byte(object)}}, Files: []config.File{{Name: "a.yaml", Data: []byte("version: 1")}}}
		c, err := in.Load(config.Options{Objects: map[string]config.ManifestTranslator{"kubernetes": TranslateTold}})
		if want == "" && (err != nil || len(c.Routes) != n) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%d paths: %v, want %s", n, err, want)
		}
	}
	f(maxRoutes, "")
	f(15_000, "o:1:191911: spec.rules[0].http.paths[2000]: the object makes more than 2000 routes; part it")
}
