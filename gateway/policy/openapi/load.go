package openapi

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"sluice/config"
)

// description is a document that was read: what it says of each operation. It is immutable.
type description struct {
	paths table
	bases []string // the paths of its servers, at least one
	files []string // that it was read from
	json  []byte   // the document in one piece
}

// Bounds of what is read.
const (
	maxFile  = 16 << 20
	maxFiles = 256
)

// load reads a document with the files that it refers to. Its mistakes are config.Errors with the place in those; the files
// are known also when there are mistakes.
func load(file string) (*description, error) {
	d := &description{}
	texts := make(map[string][]byte)
	l := openapi3.NewLoader()
	l.IncludeOrigin = true
	l.ReadFromURIFunc = func(_ *openapi3.Loader, location *url.URL) ([]byte, error) {
		if location.Scheme != "" && location.Scheme != "file" || location.Host != "" {
			return nil, fmt.Errorf("%s is not on this machine; keep a copy beside the document and refer to that", location)
		}
		name := filepath.FromSlash(location.Path)
		if text, ok := texts[name]; ok {
			return text, nil
		}
		if len(texts) == maxFiles {
			return nil, fmt.Errorf("it refers to more than %d files", maxFiles)
		}
		d.files = append(d.files, name)
		info, err := os.Stat(name)
		switch {
		case err != nil:
			return nil, err
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s is no regular file", name)
		case info.Size() > maxFile:
			return nil, fmt.Errorf("%s has more than %d MiB", name, maxFile>>20)
		}
		text, err := os.ReadFile(name)
		texts[name] = text
		return text, err
	}
	doc, err := l.LoadFromFile(file)
	if err != nil {
		return d, mistakes(file, texts, err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		return d, config.Errors{{Pos: config.Position{File: file, Line: 1, Column: 1}, Path: "openapi", Message: `is not "3.0.x" or later; convert an older document first`}}
	}
	err = doc.Validate(context.Background(), openapi3.EnableMultiError(), openapi3.DisableExamplesValidation(), openapi3.DisableSchemaDefaultsValidation(),
		openapi3.AllowExtensionsWithRef())
	if err != nil {
		return d, mistakes(file, texts, err)
	}
	doc.InternalizeRefs(context.Background(), nil)
	d.bases = bases(doc.Servers)
	if d.json, err = doc.MarshalJSON(); err != nil {
		return d, err
	}
	c := &compiler{doc: doc, file: file}
	for _, template := range doc.Paths.InMatchingOrder() {
		item := doc.Paths.Value(template)
		e := d.paths.add(template)
		for method, o := range item.Operations() {
			e.methods[method] = c.operation(method, e, item, o)
		}
	}
	d.paths.sort()
	if errs := c.finish(); len(errs) > 0 {
		return d, errs
	}
	return d, nil
}

// bases are the paths of servers, without the slash at their end.
func bases(servers openapi3.Servers) (all []string) {
	for _, s := range servers {
		if base, err := s.BasePath(); err == nil {
			all = append(all, strings.TrimSuffix(base, "/"))
		}
	}
	if len(all) == 0 {
		return []string{""}
	}
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) }) // the longest first
	return slices.Compact(all)
}

// mistakes gives each error of a document its place.
func mistakes(file string, texts map[string][]byte, err error) config.Errors {
	var all openapi3.MultiError
	if !errors.As(err, &all) {
		all = openapi3.MultiError{err}
	}
	var errs config.Errors
	for _, e := range all {
		found := &config.Error{Pos: placeOf(file, texts, e), Message: firstLine(e)}
		if !slices.ContainsFunc(errs, func(o *config.Error) bool { return *o == *found }) {
			errs = append(errs, found)
		}
	}
	return errs
}

var (
	lineNumber = regexp.MustCompile(`\bline (\d+)`)
	reference  = regexp.MustCompile(`"([^"\s]*#/[^"\s]*|[^"\s]+\.(?:ya?ml|json))"`)
)

// placeOf is where an error of a document lies: the innermost element that it tells the origin of, else a line that its
// text names, else where what it can not resolve is referred to.
func placeOf(file string, texts map[string][]byte, err error) config.Position {
	pos := config.Position{File: file}
	for e := err; e != nil; e = errors.Unwrap(e) {
		v := reflect.Indirect(reflect.ValueOf(e))
		if v.Kind() != reflect.Struct {
			continue
		}
		f := v.FieldByName("Origin")
		if !f.IsValid() || !f.CanInterface() {
			continue
		}
		if origin, ok := f.Interface().(*openapi3.Origin); ok && origin != nil && origin.Key != nil && origin.Key.Line > 0 {
			pos = config.Position{File: file, Line: origin.Key.Line, Column: origin.Key.Column}
			if origin.Key.File != "" {
				pos.File = filepath.FromSlash(origin.Key.File)
			}
		}
	}
	if pos.Line > 0 {
		return pos
	}
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		pos.Line, _ = strconv.Atoi(m[1])
		pos.Column = 1
		return pos
	}
	for _, m := range reference.FindAllStringSubmatch(err.Error(), -1) {
		for name, text := range texts {
			for i, line := range strings.Split(string(text), "\n") {
				if at := strings.Index(line, m[1]); at >= 0 && strings.Contains(line, "$ref") {
					return config.Position{File: name, Line: i + 1, Column: at + 1}
				}
			}
		}
	}
	return pos
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}
