package grpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// httpBody is the type whose messages are bodies as they are.
const httpBody = "google.api.HttpBody"

// badRequest is what a client did wrong, in its own words.
type badRequest struct{ message string }

func (e *badRequest) Error() string { return e.message }

func badf(format string, a ...any) error { return &badRequest{fmt.Sprintf(format, a...)} }

// reader makes messages of what clients send.
type reader struct {
	schema *schema
	json   protojson.UnmarshalOptions
}

// takesRaw reports whether the request body of a binding is not JSON.
func (b *binding) takesRaw() bool {
	switch {
	case b.whole:
		return b.method.Input().FullName() == httpBody
	case b.body != nil && !b.body.IsList():
		return b.body.Message() != nil && b.body.Message().FullName() == httpBody
	}
	return false
}

// message makes the request message of a body, and of path and query.
func (r *reader) message(b *binding, body []byte, contentType string, segments []string, query string) (proto.Message, error) {
	m := dynamicpb.NewMessage(b.method.Input())
	if err := r.fromBody(b, m, body, contentType); err != nil {
		return nil, err
	}
	if !b.whole && query != "" {
		if err := r.fromQuery(b, m, query); err != nil {
			return nil, err
		}
	}
	for i := range b.variables {
		v := &b.variables[i]
		if err := r.set(m, v.field, v.value(segments), true); err != nil {
			return nil, badf("the path: %v", err)
		}
	}
	return m, nil
}

func (r *reader) fromBody(b *binding, m *dynamicpb.Message, body []byte, contentType string) error {
	switch {
	case b.takesRaw():
		to := protoreflect.Message(m)
		if b.body != nil {
			to = m.Mutable(b.body).Message()
		}
		fields := to.Descriptor().Fields()
		if contentType != "" {
			to.Set(fields.ByName("content_type"), protoreflect.ValueOfString(contentType))
		}
		if len(body) > 0 {
			to.Set(fields.ByName("data"), protoreflect.ValueOfBytes(bytes.Clone(body)))
		}
		return nil
	case !b.whole && b.body == nil:
		if len(bytes.TrimSpace(body)) > 0 {
			return badf("the request has a body and its method takes none")
		}
		return nil
	case len(bytes.TrimSpace(body)) == 0:
		return nil // an empty message
	case b.whole:
		return r.unmarshal(body, m, 0)
	}
	// A field is read as the only one of a message around it.
	if !json.Valid(body) {
		return r.unmarshal(body, dynamicpb.NewMessage(b.method.Input()), 0)
	}
	head := `{"` + b.body.JSONName() + `":`
	around := append(append([]byte(head), body...), '}')
	return r.unmarshal(around, m, len(head))
}

// place is how protojson says where it met a mistake.
var place = regexp.MustCompile(`^(?:proto:[\s\x{a0}]*)?(?:syntax error )?\(line (\d+):(\d+)\):[\s\x{a0}]*`)

var prefix = regexp.MustCompile(`^proto:[\s\x{a0}]*`)

// unmarshal reads JSON. A mistake is told with the path of its field, and with
// its place in what the client has sent: head bytes of data are not the client's.
func (r *reader) unmarshal(data []byte, m proto.Message, head int) error {
	o := r.json
	o.Resolver = r.schema.types
	err := o.Unmarshal(data, m)
	if err == nil {
		return nil
	}
	text := err.Error()
	at := place.FindStringSubmatch(text)
	if at == nil && strings.Contains(text, "unexpected EOF") {
		if path := pathAt(data, len(data)); path != "" {
			return badf("the body ends at %s, before it is complete", path)
		}
		return badf("the body ends before it is complete")
	}
	if at == nil {
		return badf("the body is not what the method takes: %s", clean(prefix.ReplaceAllString(text, "")))
	}
	line, _ := strconv.Atoi(at[1])
	column, _ := strconv.Atoi(at[2])
	path := pathAt(data, offsetOf(data, line, column))
	if line == 1 {
		column = max(1, column-head)
	}
	what := clean(text[len(at[0]):])
	if path != "" {
		return badf("the body at %s (line %d, column %d): %s", path, line, column, what)
	}
	return badf("the body (line %d, column %d): %s", line, column, what)
}

func clean(s string) string { return strings.ReplaceAll(s, "\u00a0", " ") }

// offsetOf is the offset of a place, both counted from 1 and in bytes as protojson counts them.
func offsetOf(data []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(data[at:], '\n')
		if i < 0 {
			break
		}
		at += i + 1
	}
	return min(at+column-1, len(data))
}

// pathAt is the path of the JSON value that begins at an offset or has it
// inside, as address.lines[2]; "" for the outermost.
func pathAt(data []byte, offset int) string {
	type level struct {
		array bool
		key   string
		index int
		named bool // the key of the value to come is known
	}
	var levels []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err != nil || int(d.InputOffset()) > offset {
			// The token that reaches over the offset belongs to the path if it is a key.
			if key, ok := t.(string); ok && err == nil && len(levels) > 0 && !levels[len(levels)-1].array && !levels[len(levels)-1].named {
				levels[len(levels)-1].key, levels[len(levels)-1].named = key, true
			}
			break
		}
		switch t := t.(type) {
		case json.Delim:
			switch t {
			case '{', '[':
				levels = append(levels, level{array: t == '['})
				continue
			default:
				levels = levels[:len(levels)-1]
			}
		case string:
			if n := len(levels); n > 0 && !levels[n-1].array && !levels[n-1].named {
				levels[n-1].key, levels[n-1].named = t, true
				continue
			}
		}
		if n := len(levels); n > 0 {
			levels[n-1].named = false
			levels[n-1].index++
		}
	}
	var b strings.Builder
	for _, l := range levels {
		switch {
		case l.array:
			fmt.Fprintf(&b, "[%d]", l.index)
		case l.named:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(l.key)
		}
	}
	return b.String()
}

// fromQuery sets the fields that parameters name.
func (r *reader) fromQuery(b *binding, m *dynamicpb.Message, query string) error {
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return badf("the query has a malformed escape")
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil {
			return badf("the parameter %s has a malformed escape", name)
		}
		fields, err := fieldPath(b.method.Input(), strings.Split(name, "."))
		if err != nil {
			if r.json.DiscardUnknown {
				continue
			}
			return badf("the parameter %s: %v", name, err)
		}
		names := make([]string, len(fields))
		for i, f := range fields {
			names[i] = string(f.Name())
		}
		for i := range names {
			if b.bound[strings.Join(names[:i+1], ".")] {
				return badf("the parameter %s: this field is set by the path or the body", name)
			}
		}
		key := strings.Join(names, ".")
		if seen[key] && !fields[len(fields)-1].IsList() {
			return badf("the parameter %s stands there twice", name)
		}
		seen[key] = true
		if err := r.set(m, names, value, false); err != nil {
			return badf("the parameter %s: %v", name, err)
		}
	}
	return nil
}

// set sets the field at a path from text.
func (r *reader) set(m protoreflect.Message, names []string, text string, replace bool) error {
	fields, err := fieldPath(m.Descriptor(), names)
	if err != nil {
		return err
	}
	for _, fd := range fields[:len(fields)-1] {
		m = m.Mutable(fd).Message()
	}
	fd := fields[len(fields)-1]
	if one := fd.ContainingOneof(); one != nil && !replace {
		if set := m.WhichOneof(one); set != nil && set != fd {
			return fmt.Errorf("%s is set already, and only one of %s may be", set.Name(), one.Name())
		}
	}
	value, err := jsonOf(fd, text)
	if err != nil {
		return err
	}
	if fd.IsList() {
		value = "[" + value + "]"
	}
	if fd.Message() != nil && fd.Message().FullName() == "google.protobuf.FieldMask" && strings.Contains(text, "_") && !fd.IsList() {
		// In the spelling of the .proto file, as many clients write it.
		mask := m.Mutable(fd).Message()
		paths := mask.Mutable(mask.Descriptor().Fields().ByName("paths")).List()
		for path := range strings.SplitSeq(text, ",") {
			paths.Append(protoreflect.ValueOfString(path))
		}
		return nil
	}
	one := dynamicpb.NewMessage(m.Descriptor())
	o := protojson.UnmarshalOptions{Resolver: r.schema.types}
	if err := o.Unmarshal([]byte(`{"`+fd.JSONName()+`":`+value+`}`), one); err != nil {
		return fmt.Errorf("%q is no %s", text, kindOf(fd))
	}
	switch {
	case fd.IsList():
		list, more := m.Mutable(fd).List(), one.Get(fd).List()
		for i := range more.Len() {
			list.Append(more.Get(i))
		}
	case one.Has(fd):
		m.Set(fd, one.Get(fd))
	default:
		m.Clear(fd) // its default
	}
	return nil
}

var number = regexp.MustCompile(`^-?[0-9]+$`)

// jsonOf is text as a value of JSON for a field.
func jsonOf(fd protoreflect.FieldDescriptor, text string) (string, error) {
	quoted := func() string {
		b, _ := json.Marshal(strings.ToValidUTF8(text, "\ufffd"))
		return string(b)
	}
	if fd.IsMap() {
		return "", errors.New("a map can not be a parameter")
	}
	boolean := func() (string, error) {
		if text != "true" && text != "false" {
			return "", fmt.Errorf("%q is no bool; write true or false", text)
		}
		return text, nil
	}
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return boolean()
	case protoreflect.EnumKind:
		if number.MatchString(text) {
			return text, nil
		}
		return quoted(), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if !isScalarMessage(fd.Message()) {
			return "", fmt.Errorf("%s is a message; name its fields, as %s.NAME", fd.Name(), fd.Name())
		}
		if fd.Message().FullName() == "google.protobuf.BoolValue" {
			return boolean()
		}
	}
	return quoted(), nil
}

func kindOf(fd protoreflect.FieldDescriptor) string {
	switch {
	case fd.Message() != nil:
		return string(fd.Message().Name())
	case fd.Enum() != nil:
		return string(fd.Enum().Name())
	}
	return fd.Kind().String()
}
