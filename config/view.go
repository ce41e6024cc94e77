package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// View returns the whole configuration, defaults included, as values that encoding/json
// can write. Each setting is {"value": …, "source": …}, where the source is file:line, the
// name of an environment variable, a flag, or "default". Secrets read ***: those of type
// Secret, texts in maps under a key that sounds like one, as a header's name, and so below
// undecoded blocks whatever stands there.
func (c *Config) View() any {
	return viewValue(reflect.ValueOf(*c), c.tree, defaultSource.file, nil)
}

type leaf struct {
	Value  any    `json:"value"`
	Source string `json:"source"`

	hidden string // what a masked value stands for
}

// mask is a leaf that tells nothing but whether it is the same as another.
func mask(hidden, origin string) leaf { return leaf{masked, origin, digest(hidden)} }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return string(sum[:])
}

// plain is a text without what URLs in it hide.
func plain(text, origin string) leaf {
	shown := redactText(text)
	if shown == text {
		return leaf{Value: shown, Source: origin}
	}
	return leaf{shown, origin, digest(text)}
}

// reveal is the text of a value that is not shown.
func reveal(v reflect.Value) string {
	if s, ok := v.Interface().(Secret); ok {
		return s.Reveal()
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface())
	}
	var all strings.Builder
	for i := range v.Len() {
		all.WriteString(strconv.Quote(reveal(v.Index(i))))
	}
	return all.String()
}

func (n *node) origin() string {
	if n.line == 0 || n.src.kind != "file" {
		return n.src.file
	}
	return fmt.Sprintf("%s:%d", n.src.file, n.line)
}

// viewValue shows v, decoded from n, or from nothing when n is nil.
func viewValue(v reflect.Value, n *node, origin string, f *planField) any {
	t := v.Type()
	if n != nil {
		origin = n.origin()
	}
	switch {
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		if b, ok := v.Interface().(*Block); ok {
			return viewNode(b.node, false)
		}
		return viewValue(v.Elem(), n, origin, f)
	case (t == secretType || f != nil && f.secret) && !v.IsZero():
		return mask(reveal(v), origin)
	case isScalar(t):
		if text, ok := v.Interface().(string); ok {
			return plain(text, origin)
		}
		return leaf{Value: viewScalar(v), Source: origin}
	case t.Kind() == reflect.Interface:
		// A setting of any form: what is written, or nothing.
		if n == nil {
			return nil
		}
		return viewNode(n, f != nil && f.secret)
	}
	switch t.Kind() {
	case reflect.Struct:
		return viewStruct(v, n)
	case reflect.Map:
		shown := make(map[string]any, v.Len())
		written := n.children()
		for _, key := range v.MapKeys() {
			name := fmt.Sprint(key.Interface())
			value := v.MapIndex(key)
			if holdsText(value.Type()) && soundsSecret(name) {
				shown[name] = mask(reveal(value), cmp.Or(written[name], n, fromDefault).origin())
				continue
			}
			from := origin
			if n != nil && written[name] == nil {
				from = defaultSource.file // nobody wrote it
			}
			shown[name] = viewValue(value, written[name], from, f)
		}
		return shown
	}
	list := make([]any, v.Len())
	for i := range list {
		var item *node
		if n != nil && n.kind == sequence && i < len(n.items) {
			item = n.items[i]
		}
		list[i] = viewValue(v.Index(i), item, origin, f)
	}
	return list
}

// holdsText tells of the values of a map, as of headers by name, whose keys may say that they are secret.
func holdsText(t reflect.Type) bool {
	return t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String
}

var fromDefault = &node{src: defaultSource}

func viewStruct(v reflect.Value, n *node) any {
	p := planOf(v.Type())
	origin := defaultSource.file
	if n != nil {
		origin = n.origin()
	}
	if p.off >= 0 && v.Field(p.off).Bool() {
		return leaf{Value: "off", Source: origin}
	}
	short := ""
	if n != nil && n.kind == scalar {
		short = shorthand(v.Type())
	}
	shown := map[string]any{}
	for i := range p.fields {
		f := &p.fields[i]
		child := n.child(f.name)
		if f.name == short {
			child = n
		}
		if child != nil && child.kind == null && f.typ.Kind() != reflect.Pointer {
			child = nil
		}
		value := v.FieldByIndex(f.index)
		if child == nil && f.preset == "" && unset(value) {
			continue
		}
		shown[f.name] = viewValue(value, child, defaultSource.file, f)
	}
	return shown
}

// unset is what has no value worth showing when nobody wrote it: an empty list, map or
// text, a secret that is not there.
func unset(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice:
		return v.Len() == 0
	case reflect.Pointer, reflect.String:
		return v.IsZero()
	}
	return (v.Type() == secretType || v.Type() == timeType) && v.IsZero()
}

func viewScalar(v reflect.Value) any {
	switch value := v.Interface().(type) {
	case time.Duration:
		return FormatDuration(value)
	case time.Time:
		if value.IsZero() {
			return ""
		}
		return value.Format(time.RFC3339)
	case fmt.Stringer:
		return value.String()
	}
	return v.Interface()
}

// viewNode shows an undecoded block; secret hides every value in it.
func viewNode(n *node, secret bool) any {
	switch n.kind {
	case mapping:
		shown := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			shown[f.key] = viewNode(f.value, secret || soundsSecret(f.key))
		}
		return shown
	case sequence:
		list := make([]any, len(n.items))
		for i, item := range n.items {
			list[i] = viewNode(item, secret)
		}
		return list
	case scalar:
		if secret && n.text != "" {
			if _, isBool := n.value().(bool); !isBool {
				return mask(n.text, n.origin())
			}
		}
		if text, ok := n.value().(string); ok {
			return plain(text, n.origin())
		}
	}
	return leaf{Value: n.value(), Source: n.origin()}
}

var secretWords = map[string]bool{
	"key": true, "keys": true, "hash": true, "hashes": true, "authorization": true, "cookie": true,
	"credential": true, "credentials": true, "private": true, "apikey": true, "passphrase": true,
}

// soundsSecret judges a key of a block whose settings are not known here.
func soundsSecret(key string) bool {
	key = loosely(key)
	if key == "public_key" {
		return false
	}
	for _, part := range [...]string{"secret", "token", "password", "passwd"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	for word := range strings.SplitSeq(key, "_") {
		if secretWords[word] {
			return true
		}
	}
	return false
}

// redactText hides a private key that stands in the file itself, and what URLs carry.
func redactText(text string) string {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return masked
	}
	return redactURL(text)
}

var userinfo = regexp.MustCompile(`://[^/@\s]*@`)

// redactURL hides user and password in the URLs of a text.
func redactURL(text string) string {
	text = userinfo.ReplaceAllString(text, "://"+masked+"@")
	if !strings.Contains(text, "://") {
		return text
	}
	return parameter.ReplaceAllStringFunc(text, func(p string) string {
		name, _, _ := strings.Cut(p[1:], "=")
		if !soundsSecret(name) && !strings.HasPrefix(strings.ToLower(name), "sig") {
			return p
		}
		return p[:1] + name + "=" + masked
	})
}

// parameter is one of the query of a URL.
var parameter = regexp.MustCompile(`[?&][^=&#\s]+=[^&#\s]*`)
