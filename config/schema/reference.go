package schema

import (
	"bytes"
	_ "embed"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"time"

	"sluice/config"
)

//go:embed reference.md.tmpl
var referenceText string

// Reference returns the reference documentation in Markdown: an introduction written by
// hand, and a table of settings for each part of the file, each action and each policy.
func Reference(o Options) ([]byte, error) {
	r := &reference{options: o, docs: newDocs(o.Root)}
	t := template.Must(template.New("reference").Funcs(template.FuncMap{
		"settings": r.settings,
		"actions":  func() string { return r.entries(o.Actions) },
		"policies": func() string { return r.entries(o.Policies) },
	}).Parse(referenceText))
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, fmt.Errorf("cannot write the reference: %w", err)
	}
	if r.docs.err != nil {
		return nil, r.docs.err
	}
	return append(bytes.TrimSpace(b.Bytes()), '\n'), nil
}

type reference struct {
	options Options
	docs    *docs
}

// settings is one section for each key of the file that holds a block, after a table of
// those that hold a value.
func (r *reference) settings() string {
	var single, sections strings.Builder
	heading(&single)
	for _, f := range config.Fields(reflect.TypeFor[config.Config]()) {
		block := blockOf(f.Type)
		text := r.docs.field(f.Owner, f.GoName, f.Name)
		if block == nil {
			r.row(&single, f, f.Name)
			continue
		}
		name := f.Name
		if f.Type.Kind() == reflect.Map {
			name += ".NAME"
		}
		fmt.Fprintf(&sections, "\n### `%s`\n\n%s\n\n", name, text)
		heading(&sections)
		r.rows(&sections, block, "", nil)
	}
	return single.String() + sections.String()
}

func (r *reference) entries(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		stage := ""
		if e.Stage != "" {
			stage = " (" + e.Stage + ")"
		}
		fmt.Fprintf(&b, "### `%s`%s\n\n", e.Name, stage)
		if text := r.docs.typ(e.Type); text != "" {
			b.WriteString(text)
			if e.AllowList {
				b.WriteString(" May be a list of such blocks.")
			}
			b.WriteString("\n\n")
		}
		if len(config.Fields(e.Type)) == 0 {
			b.WriteString("No settings.\n\n")
			continue
		}
		heading(&b)
		r.rows(&b, e.Type, "", nil)
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func heading(w io.Writer) {
	_, _ = io.WriteString(w, "| setting | type | default | meaning |\n|---|---|---|---|\n")
}

// rows writes the settings of a block, and those of the blocks in it behind their names.
func (r *reference) rows(w io.Writer, t reflect.Type, prefix string, above []reflect.Type) {
	for _, f := range config.Fields(t) {
		r.row(w, f, prefix+f.Name)
		block := blockOf(f.Type)
		if block == nil || slices.Contains(above, block) {
			continue
		}
		inner := prefix + f.Name
		switch f.Type.Kind() {
		case reflect.Map:
			inner += ".KEY"
		case reflect.Slice:
			inner += "[]"
		}
		r.rows(w, block, inner+".", append(above, t))
	}
}

func (r *reference) row(w io.Writer, f config.Field, name string) {
	preset := ""
	switch {
	case f.Default != "":
		preset = "`" + strings.ReplaceAll(f.Default, ",", ", ") + "`"
	case f.Required:
		preset = "required"
	}
	text := r.docs.field(f.Owner, f.GoName, f.Name)
	if len(f.Enum) > 0 {
		text += " One of `" + strings.Join(f.Enum, "`, `") + "`."
	}
	if f.Min != "" {
		text += " At least " + f.Min + "."
	}
	if f.Max != "" && f.Max != f.Min {
		text += " At most " + f.Max + "."
	}
	fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", name, kindOf(f), preset, strings.ReplaceAll(text, "|", `\|`))
}

// blockOf is the struct that a setting holds, directly, by name or in a list; nil for none.
func blockOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || !config.IsScalar(t) && (t.Kind() == reflect.Map || t.Kind() == reflect.Slice) {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || config.IsScalar(t) || t == reflect.TypeFor[config.Block]() {
		return nil
	}
	return t
}

func kindOf(f config.Field) string { return kindName(f.Type, f.Action) }

func kindName(t reflect.Type, action bool) string {
	switch t {
	case reflect.TypeFor[config.Policies]():
		return "policies"
	case reflect.TypeFor[config.StringList]():
		return "text or list"
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[config.Size]():
		return "size"
	case reflect.TypeFor[config.Percent]():
		return "percent"
	case reflect.TypeFor[config.Secret]():
		return "secret"
	case reflect.TypeFor[config.CIDR]():
		return "network"
	case reflect.TypeFor[time.Time]():
		return "day or time"
	case reflect.TypeFor[config.Block]():
		if action {
			return "action"
		}
		return "block"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindName(t.Elem(), action)
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list of " + kindName(t.Elem(), false)
	case reflect.Map:
		return "map of " + kindName(t.Elem(), false)
	case reflect.Interface:
		return "any"
	case reflect.Struct:
		if config.IsScalar(t) {
			return "text"
		}
		if short := config.ShorthandOf(t); short != "" {
			return "block or `" + short + "`"
		}
		return "block"
	}
	return "integer"
}
