package apidocs

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"

	"sluice/gateway/policy"
)

//go:embed page.css
var style string

//go:embed page.html
var pageText string

var page = template.Must(template.New("docs").Funcs(template.FuncMap{"style": func() template.CSS { return template.CSS(style) }}).Parse(pageText)) //nolint:gosec // a file of ours

// Policy is the Content-Security-Policy of the page: its one style sheet, and nothing else.
var Policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

type apiView struct {
	Name, Title, Version, Description, File string
	Routes                                  []string
	Operations                              []operationView
	Schemas                                 []schemaView
}

type operationView struct {
	ID, Method, Path, Summary, Description string
	Deprecated                             bool
	Parameters                             []field
	Body                                   []content
	BodyRequired                           bool
	Responses                              []responseView
}

type field struct {
	Name, In, Type, Link, Description string
	Required                          bool
}

type content struct{ Media, Type, Link string }

type responseView struct {
	Status, Description string
	Content             []content
}

type schemaView struct {
	ID, Name, Description, Text string
	Fields                      []field
}

// Page renders the documents as HTML.
func Page(docs []policy.Document) ([]byte, error) {
	apis, err := collect(docs)
	if err != nil {
		return nil, err
	}
	var views []apiView
	for _, a := range apis {
		views = append(views, a.view())
	}
	var b bytes.Buffer
	if err := page.Execute(&b, views); err != nil {
		return nil, fmt.Errorf("cannot render the documentation: %w", err)
	}
	return b.Bytes(), nil
}

func (a *api) view() apiView {
	info := mapOf(a.doc["info"])
	v := apiView{Name: a.name, Title: text(info, "title"), Version: text(info, "version"), Description: text(info, "description"), File: a.file, Routes: a.routes}
	for _, path := range slices.Sorted(maps.Keys(mapOf(a.doc["paths"]))) {
		item := mapOf(mapOf(a.doc["paths"])[path])
		for _, method := range methods {
			if op, ok := item[method].(object); ok {
				v.Operations = append(v.Operations, a.operation(method, path, item, op))
			}
		}
	}
	schemas := mapOf(mapOf(a.doc["components"])["schemas"])
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		s := mapOf(schemas[name])
		one := schemaView{ID: a.name + "." + name, Name: name, Description: text(s, "description"), Fields: a.fields(s)}
		if len(one.Fields) == 0 {
			pretty, err := json.MarshalIndent(schemas[name], "", "  ")
			if err == nil {
				one.Text = string(pretty)
			}
		}
		v.Schemas = append(v.Schemas, one)
	}
	return v
}

func (a *api) operation(method, path string, item, op object) operationView {
	v := operationView{
		ID: a.name + "-" + method + "-" + strings.Trim(unlike.ReplaceAllString(path, "-"), "-"), Method: strings.ToUpper(method), Path: a.base + path,
		Summary: text(op, "summary"), Description: text(op, "description"), Deprecated: op["deprecated"] == true,
	}
	for _, p := range parametersOf(item, op) {
		p := a.resolve(p)
		f := field{Name: text(p, "name"), In: text(p, "in"), Description: text(p, "description"), Required: p["required"] == true}
		f.Type, f.Link = a.typeOf(p["schema"])
		v.Parameters = append(v.Parameters, f)
	}
	body := a.resolve(op["requestBody"])
	v.BodyRequired, v.Body = body["required"] == true, a.contents(body)
	responses := mapOf(op["responses"])
	for _, status := range slices.Sorted(maps.Keys(responses)) {
		r := a.resolve(responses[status])
		v.Responses = append(v.Responses, responseView{Status: status, Description: text(r, "description"), Content: a.contents(r)})
	}
	return v
}

func (a *api) contents(holder object) (all []content) {
	types := mapOf(holder["content"])
	for _, name := range slices.Sorted(maps.Keys(types)) {
		c := content{Media: name}
		c.Type, c.Link = a.typeOf(mapOf(types[name])["schema"])
		all = append(all, c)
	}
	return all
}

// fields are the properties of an object.
func (a *api) fields(schema object) (all []field) {
	required, _ := schema["required"].([]any)
	properties := mapOf(schema["properties"])
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		f := field{Name: name, Description: text(mapOf(properties[name]), "description"), Required: slices.Contains(required, any(name))}
		f.Type, f.Link = a.typeOf(properties[name])
		all = append(all, f)
	}
	return all
}

// resolve follows a reference to a component of the document.
func (a *api) resolve(v any) object {
	for range 8 { // a reference may lead to another; a circle ends
		m := mapOf(v)
		ref, ok := m["$ref"].(string)
		if !ok {
			return m
		}
		v = any(a.doc)
		for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			v = mapOf(v)[strings.NewReplacer("~1", "/", "~0", "~").Replace(step)]
		}
	}
	return nil
}

// typeOf says in a few words what a schema takes, and the id of the named schema in it.
func (a *api) typeOf(schema any) (words, link string) {
	s := mapOf(schema)
	if ref, ok := s["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		if strings.HasPrefix(ref, componentsPath+"schemas/") {
			link = a.name + "." + name
		}
		return name, link
	}
	switch t := s["type"].(type) {
	case string:
		words = t
	case []any:
		names := make([]string, len(t))
		for i := range t {
			names[i] = fmt.Sprint(t[i])
		}
		words = strings.Join(names, " or ")
	}
	if words == "array" {
		inner, link := a.typeOf(s["items"])
		if inner == "" {
			inner = "anything"
		}
		return "list of " + inner, link
	}
	for _, combined := range []string{"oneOf", "anyOf", "allOf"} {
		list, ok := s[combined].([]any)
		if !ok || len(list) == 0 {
			continue
		}
		var names []string
		for _, one := range list {
			name, inner := a.typeOf(one)
			if names = append(names, name); link == "" {
				link = inner
			}
		}
		joint := " or "
		if combined == "allOf" {
			joint = " and "
		}
		return strings.Join(names, joint), link
	}
	if format := text(s, "format"); format != "" {
		words += " (" + format + ")"
	}
	for _, bound := range [][2]string{{"minimum", "from"}, {"maximum", "to"}, {"minLength", "at least"}, {"maxLength", "at most"}, {"pattern", "matching"}} {
		if value, ok := s[bound[0]]; ok {
			words += fmt.Sprintf(", %s %v", bound[1], value)
		}
	}
	if list, ok := s["enum"].([]any); ok {
		names := make([]string, len(list))
		for i := range list {
			names[i] = fmt.Sprint(list[i])
		}
		words += ": " + strings.Join(names, ", ")
	}
	return strings.TrimLeft(words, ",: "), link
}

func text(m object, key string) string {
	s, _ := m[key].(string)
	return s
}
