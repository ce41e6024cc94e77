package kong

import (
	"strings"

	"sluice/config"
)

// grpcGateway ends a route whose service speaks gRPC.
var grpcGateway = definition{
	name: "grpc-gateway", noConsumer: true, to: "the action `grpc`, with `proto_names`, `emit_defaults` and `ignore_unknown`; a path is matched as the client wrote it. Refusals of the service are Sluice's problems",
	options: []field{{name: "proto", kind: text, to: "`grpc.descriptors`"}, {name: "additional_protos", kind: texts, fate: refused, to: "import them in the file of proto"}},
	check: func(p *plugin) {
		wanting("proto", "name the .proto file")(p)
		if p.config.text("proto") != "" && !strings.HasSuffix(p.config.text("proto"), ".proto") {
			p.config.fail("proto", "this is no .proto file")
		}
	},
	end: func(p *plugin, into config.Tree) {
		c := &p.config
		yes := config.NewWord(c.tree, true)
		into.Set("grpc", config.NewMap(c.tree).
			Set("descriptors", config.NewText(c.at("proto"), c.text("proto"))).
			Set("proto_names", yes).Set("emit_defaults", yes).Set("ignore_unknown", yes))
	},
}

// grpcWeb needs no policy: calls of gRPC-Web to services of gRPC become calls of gRPC by themselves.
var grpcWeb = definition{
	name: "grpc-web", noConsumer: true, to: "calls of gRPC-Web become calls of gRPC by themselves; what scripts of other sites may do is `cors`",
	options: []field{
		{name: "proto", kind: text, fate: refused, to: "calls in JSON are not understood on this path; use grpc-gateway for them, and leave proto out for application/grpc-web"},
		{name: "pass_stripped_path", kind: boolean, preset: "false", to: "`strip_prefix`"},
		{name: "allow_origin_header", kind: text, preset: "*", to: "`cors.origins`"},
	},
}

// overGRPC tells whether the route's service is spoken to by gRPC.
func (r *route) overGRPC() bool {
	return r.service != nil && (r.service.scheme == "grpc" || r.service.scheme == "grpcs")
}

// foreignSites writes cors where grpc-gateway and grpc-web allow scripts of other sites what a plugin cors does not decide.
func (t *translation) foreignSites(r *route, policies config.Tree) {
	if t.forRoute(r, "cors") != nil {
		return
	}
	cors := func(at config.Tree, origin string, methods, headers []string) {
		policies.Set("cors", config.NewMap(at).
			Set("origins", config.NewTexts(at, origin)).
			Set("methods", config.NewTexts(at, methods...)).
			Set("headers", config.NewTexts(at, headers...)).
			Set("expose", config.NewTexts(at, "grpc-status", "grpc-message")))
	}
	if p := t.forRoute(r, "grpc-gateway"); p != nil {
		cors(p.tree, "*", []string{"GET", "POST", "PATCH", "DELETE"}, []string{"content-type"})
	} else if p := t.forRoute(r, "grpc-web"); p != nil {
		cors(p.tree, p.config.text("allow_origin_header"), []string{"POST"}, []string{"content-type", "x-grpc-web", "x-user-agent"})
	}
}

// strips tells whether the matched prefix goes.
func (t *translation) strips(r *route) bool {
	if !r.yes("strip_path") || len(r.list("paths")) == 0 || r.calls() && !r.has("strip_path") {
		return false
	}
	if t.forRoute(r, "grpc-gateway") != nil {
		return false // which takes the path as the client wrote it
	}
	if p := t.forRoute(r, "grpc-web"); p != nil {
		return p.config.yes("pass_stripped_path")
	}
	return true
}

// calls tells whether a route is for gRPC alone.
func (r *route) calls() bool {
	for _, p := range r.texts("protocols") {
		if p != "grpc" && p != "grpcs" {
			return false
		}
	}
	return true
}
