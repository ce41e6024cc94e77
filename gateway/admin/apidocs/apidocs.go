// Package apidocs shows the APIs that the routes of a gateway describe: as one merged OpenAPI document, and as one page.
// The page stands for itself: no script, nothing from elsewhere, and whatever a document says is text on it.
package apidocs

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sluice/gateway/policy"
)

type object = map[string]any

// api is one document with the routes that serve it in one place.
type api struct {
	name   string // unlike all others, fit for names of components
	file   string
	base   string
	routes []string
	doc    object
}

// methods are the fields of a path item that are operations, in the order in which they are shown.
var methods = []string{"get", "head", "post", "put", "patch", "delete", "options", "trace", "query"}

// collect parts documents by where they are served; several routes may serve one.
func collect(docs []policy.Document) ([]*api, error) {
	var apis []*api
	for _, d := range docs {
		if i := slices.IndexFunc(apis, func(a *api) bool { return a.file == d.File && a.base == d.Base }); i >= 0 {
			apis[i].routes = append(apis[i].routes, d.Route)
			continue
		}
		a := &api{name: unlike.ReplaceAllString(d.Route, "_"), file: d.File, base: strings.TrimSuffix(d.Base, "/"), routes: []string{d.Route}}
		if err := json.Unmarshal(d.JSON, &a.doc); err != nil {
			return nil, fmt.Errorf("cannot read the document of %s: %w", d.Route, err)
		}
		for slices.ContainsFunc(apis, func(o *api) bool { return o.name == a.name }) {
			a.name += "_"
		}
		apis = append(apis, a)
	}
	return apis, nil
}

// unlike is what the name of a component can not hold.
var unlike = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// Merge returns one OpenAPI document with the operations of all, under the paths that clients write. Components get the
// name of their route before their own. Where two documents have the same operation, the first keeps it.
func Merge(docs []policy.Document) ([]byte, error) {
	apis, err := collect(docs)
	if err != nil {
		return nil, err
	}
	merged := object{
		"openapi": "3.0.3",
		"info":    object{"title": "APIs of this gateway", "version": "1"},
	}
	paths, components, ids := object{}, object{}, make(map[string]bool)
	for _, a := range apis {
		if version, _ := a.doc["openapi"].(string); version > merged["openapi"].(string) {
			merged["openapi"] = version
		}
		a.rename(a.doc)
		for section, entries := range mapOf(a.doc["components"]) {
			into, _ := components[section].(object)
			if into == nil {
				into = object{}
				components[section] = into
			}
			for name, value := range mapOf(entries) {
				into[a.name+"."+name] = value
			}
		}
		for _, path := range slices.Sorted(maps.Keys(mapOf(a.doc["paths"]))) {
			a.addPath(paths, path, ids)
		}
	}
	merged["paths"] = paths
	if len(components) > 0 {
		merged["components"] = components
	}
	return json.MarshalIndent(merged, "", "  ")
}

// addPath adds the operations of one path that are not there yet.
func (a *api) addPath(paths object, path string, ids map[string]bool) {
	item := mapOf(mapOf(a.doc["paths"])[path])
	public := a.base + path
	into, _ := paths[public].(object)
	if into == nil {
		into = object{}
		paths[public] = into
	}
	for _, method := range methods {
		op, ok := item[method].(object)
		if !ok || into[method] != nil {
			continue
		}
		op["parameters"] = parametersOf(item, op)
		if len(op["parameters"].([]any)) == 0 {
			delete(op, "parameters")
		}
		delete(op, "servers")
		if op["security"] == nil && a.doc["security"] != nil {
			op["security"] = a.doc["security"]
		}
		if op["tags"] == nil {
			op["tags"] = []any{a.title()}
		}
		if id, ok := op["operationId"].(string); ok {
			if ids[id] {
				id = a.name + "." + id
				op["operationId"] = id
			}
			ids[id] = true
		}
		op["x-sluice-routes"] = a.routes
		into[method] = op
	}
}

// parametersOf are those of an operation and of its path, which the operation's replace.
func parametersOf(item, op object) []any {
	own, _ := op["parameters"].([]any)
	shared, _ := item["parameters"].([]any)
	all := slices.Clone(own)
	for _, s := range shared {
		p := mapOf(s)
		if !slices.ContainsFunc(own, func(o any) bool {
			q := mapOf(o)
			return p["$ref"] == nil && q["name"] == p["name"] && q["in"] == p["in"] || p["$ref"] != nil && q["$ref"] == p["$ref"]
		}) {
			all = append(all, s)
		}
	}
	return all
}

func (a *api) title() string {
	title, _ := mapOf(a.doc["info"])["title"].(string)
	return title
}

const componentsPath = "#/components/"

// rename has everything in v refer to components by the names that they get.
func (a *api) rename(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			a.rename(e)
		}
	case object:
		for key, value := range v {
			text, isText := value.(string)
			switch {
			case key == "$ref" && isText:
				v[key] = a.renamed(text)
			case key == "mapping" && v["propertyName"] != nil:
				for name, target := range mapOf(value) {
					if text, ok := target.(string); ok {
						if !strings.ContainsAny(text, "#/") {
							text = componentsPath + "schemas/" + text
						}
						value.(object)[name] = a.renamed(text)
					}
				}
			case key == "security" && isList(value): // else a property of that name
				v[key] = a.renameSecurity(value.([]any))
			default:
				a.rename(value)
			}
		}
	}
}

func (a *api) renamed(ref string) string {
	rest, ok := strings.CutPrefix(ref, componentsPath)
	if !ok {
		return ref
	}
	section, name, ok := strings.Cut(rest, "/")
	if !ok {
		return ref
	}
	return componentsPath + section + "/" + a.name + "." + name
}

func isList(v any) bool {
	_, ok := v.([]any)
	return ok
}

func (a *api) renameSecurity(list []any) any {
	for i, alternative := range list {
		renamed := object{}
		for name, scopes := range mapOf(alternative) {
			renamed[a.name+"."+name] = scopes
		}
		list[i] = renamed
	}
	return list
}

func mapOf(v any) object {
	m, _ := v.(object)
	return m
}
