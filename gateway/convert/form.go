package convert

import (
	"bytes"
	"errors"
	"net/url"
	"unicode/utf8"

	"sluice/gateway/document"
)

// FormToJSON turns a body of the type application/x-www-form-urlencoded into an
// object of texts; names that stand there several times become arrays.
func FormToJSON(dst, src []byte) ([]byte, error) {
	values := make(map[string][]string)
	var order []string
	at := 0
	for rest := src; len(rest) > 0; {
		var pair []byte
		start := at
		pair, rest, _ = bytes.Cut(rest, []byte("&"))
		if at += len(pair) + 1; len(pair) == 0 {
			continue
		}
		k, v, _ := bytes.Cut(pair, []byte("="))
		name, err := url.QueryUnescape(string(k))
		value, err2 := url.QueryUnescape(string(v))
		if err != nil || err2 != nil {
			return nil, document.NewSyntaxError(src, start, "an escape is malformed")
		}
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, document.NewSyntaxError(src, start, "it is not in UTF-8")
		}
		if values[name] == nil {
			order = append(order, name)
		}
		values[name] = append(values[name], value)
	}
	dst = append(dst, '{')
	for i, name := range order {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(document.AppendString(dst, name), ':')
		if list := values[name]; len(list) == 1 {
			dst = document.AppendString(dst, list[0])
		} else {
			dst = append(dst, '[')
			for j, v := range list {
				if j > 0 {
					dst = append(dst, ',')
				}
				dst = document.AppendString(dst, v)
			}
			dst = append(dst, ']')
		}
	}
	return append(dst, '}'), nil
}

var errForm = errors.New("it is no object of texts, numbers, truth values and arrays of them, which is all that a form has")

// JSONToForm turns a JSON document into a form. Members that are null are left out.
func JSONToForm(dst []byte, v *document.Value) ([]byte, error) {
	if v.Kind() != document.Object {
		return nil, errForm
	}
	start := len(dst)
	add := func(name string, v *document.Value) error {
		text, isString := v.AsString()
		switch {
		case v.Kind() == document.Null:
			return nil
		case isNested(v):
			return errForm
		case !isString:
			text = string(v.Text())
		}
		if len(dst) > start {
			dst = append(dst, '&')
		}
		dst = append(dst, url.QueryEscape(name)...)
		dst = append(append(dst, '='), url.QueryEscape(text)...)
		return nil
	}
	for name, value := range v.All() {
		if value.Kind() != document.Array {
			if err := add(name, value); err != nil {
				return nil, err
			}
			continue
		}
		for _, e := range value.All() {
			if err := add(name, e); err != nil {
				return nil, err
			}
		}
	}
	return dst, nil
}
