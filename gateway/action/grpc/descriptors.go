package grpc

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// binding is one way to call a method.
type binding struct {
	method    protoreflect.MethodDescriptor
	path      string // of the method: /pkg.Service/Method
	variables []variable
	template  *template
	verb      string // of HTTP, "*" for any
	// body is the field that the request body is; nil with whole for all of the
	// message, nil without for none.
	body     protoreflect.FieldDescriptor
	whole    bool
	response protoreflect.FieldDescriptor // the field that the response body is; nil: all of it
	// bound are the fields that parameters of the query can not set.
	bound map[string]bool
}

// schema is what is known of a service: how its methods are called, and the
// types of what they exchange.
type schema struct {
	table    table
	calls    map[string][]*binding // by the path of the method, in the order of its rules
	types    *dynamicpb.Types
	bindings int
	warnings []string
}

// loadDescriptors reads a FileDescriptorSet, or a .proto file with what it imports.
func loadDescriptors(file string) (*descriptorpb.FileDescriptorSet, error) {
	if strings.HasSuffix(file, ".proto") {
		return compileProto(file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(data, set); err != nil || len(set.GetFile()) == 0 {
		return nil, fmt.Errorf("%s holds no FileDescriptorSet; write it with protoc --include_imports --descriptor_set_out=FILE, or buf build -o FILE", file)
	}
	return set, nil
}

// newSchema builds the bindings of the methods in set that are wanted.
func newSchema(set *descriptorpb.FileDescriptorSet, c *Config) (*schema, error) {
	files, err := newFiles(set)
	if err != nil {
		return nil, err
	}
	s := &schema{types: dynamicpb.NewTypes(files), calls: make(map[string][]*binding)}
	var methods []protoreflect.MethodDescriptor
	files.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		for i := range fd.Services().Len() {
			sd := fd.Services().Get(i)
			for j := range sd.Methods().Len() {
				methods = append(methods, sd.Methods().Get(j))
			}
		}
		return true
	})
	slices.SortFunc(methods, func(a, b protoreflect.MethodDescriptor) int { return cmp.Compare(a.FullName(), b.FullName()) })
	if c.Method != "" {
		name := protoreflect.FullName(strings.Replace(strings.TrimPrefix(c.Method, "/"), "/", ".", 1))
		all := methods
		methods = slices.DeleteFunc(slices.Clone(all), func(m protoreflect.MethodDescriptor) bool { return m.FullName() != name })
		if len(methods) == 0 {
			known := make([]string, 0, len(all))
			for _, m := range all {
				known = append(known, strings.TrimPrefix(methodPath(m), "/"))
			}
			return nil, fmt.Errorf("there is no method %q; there are: %s", c.Method, strings.Join(known, ", "))
		}
	}
	for _, m := range methods {
		rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
		switch {
		case rule.GetPattern() != nil:
			if err := s.add(m, rule); err != nil {
				return nil, fmt.Errorf("%s: %w", m.FullName(), err)
			}
			for _, more := range rule.GetAdditionalBindings() {
				if len(more.GetAdditionalBindings()) > 0 {
					return nil, fmt.Errorf("%s: additional_bindings stand in additional_bindings", m.FullName())
				}
				if err := s.add(m, more); err != nil {
					return nil, fmt.Errorf("%s: %w", m.FullName(), err)
				}
			}
		case c.Method != "":
			// Where the route leads to one method, every path of the route is its.
			s.bind(&template{segments: []string{"**"}}, "POST", &binding{method: m, path: methodPath(m), whole: true})
		case c.Unannotated:
			service, name, _ := strings.Cut(methodPath(m)[1:], "/")
			s.bind(&template{segments: []string{service, name}}, "POST", &binding{method: m, path: methodPath(m), whole: true})
		}
	}
	if s.bindings == 0 {
		return nil, fmt.Errorf("none of its %d methods has a google.api.http annotation; name one with method, or write unannotated: true", len(methods))
	}
	return s, nil
}

// newFiles links a set, whose imports of well-known files may be left out.
func newFiles(set *descriptorpb.FileDescriptorSet) (*protoregistry.Files, error) {
	have := make(map[string]bool)
	for _, f := range set.GetFile() {
		have[f.GetName()] = true
	}
	all := &descriptorpb.FileDescriptorSet{File: slices.Clone(set.GetFile())}
	for i := 0; i < len(all.File); i++ {
		for _, name := range all.File[i].GetDependency() {
			if have[name] {
				continue
			}
			have[name] = true
			fd, err := protoregistry.GlobalFiles.FindFileByPath(name)
			if err != nil {
				return nil, fmt.Errorf("%s imports %s, which is not in the set; add --include_imports", all.File[i].GetName(), name)
			}
			all.File = append(all.File, protodesc.ToFileDescriptorProto(fd))
		}
	}
	return protodesc.NewFiles(all)
}

func methodPath(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// add adds what one rule says.
func (s *schema) add(m protoreflect.MethodDescriptor, rule *annotations.HttpRule) error {
	var method, path string
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		method, path = "GET", p.Get
	case *annotations.HttpRule_Put:
		method, path = "PUT", p.Put
	case *annotations.HttpRule_Post:
		method, path = "POST", p.Post
	case *annotations.HttpRule_Delete:
		method, path = "DELETE", p.Delete
	case *annotations.HttpRule_Patch:
		method, path = "PATCH", p.Patch
	case *annotations.HttpRule_Custom:
		method, path = p.Custom.GetKind(), p.Custom.GetPath()
	}
	if method == "" {
		return fmt.Errorf("its rule has no method")
	}
	tpl, err := parseTemplate(path)
	if err != nil {
		return err
	}
	b := &binding{method: m, path: methodPath(m), variables: tpl.variables, bound: make(map[string]bool)}
	for i := range b.variables {
		fields, err := fieldPath(m.Input(), b.variables[i].field)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		last := fields[len(fields)-1]
		if last.IsList() || last.IsMap() || last.Message() != nil && !isScalarMessage(last.Message()) {
			return fmt.Errorf("%s: the field %s can not stand in a path", path, strings.Join(b.variables[i].field, "."))
		}
		names := make([]string, len(fields))
		for i, f := range fields {
			names[i] = string(f.Name())
		}
		b.variables[i].field = names
		b.bound[strings.Join(names, ".")] = true
	}
	switch name := rule.GetBody(); name {
	case "":
	case "*":
		b.whole = true
	default:
		if b.body = fieldNamed(m.Input(), name); b.body == nil {
			return fmt.Errorf("%s: its body is %s, which is no field of %s", path, name, m.Input().FullName())
		}
		b.bound[string(b.body.Name())] = true
	}
	if name := rule.GetResponseBody(); name != "" {
		if b.response = fieldNamed(m.Output(), name); b.response == nil {
			return fmt.Errorf("%s: its response_body is %s, which is no field of %s", path, name, m.Output().FullName())
		}
	}
	s.bind(tpl, method, b)
	return nil
}

func (s *schema) bind(tpl *template, method string, b *binding) {
	b.template, b.verb = tpl, method
	s.calls[b.path] = append(s.calls[b.path], b)
	if there := s.table.insert(tpl, method, b); there != nil {
		s.warnings = append(s.warnings, fmt.Sprintf("%s has the path of %s, which answers it", b.method.FullName(), there.method.FullName()))
		return
	}
	s.bindings++
}

// fieldNamed finds a field by the name in the .proto file or in JSON.
func fieldNamed(md protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByName(protoreflect.Name(name)); fd != nil {
		return fd
	}
	return md.Fields().ByJSONName(name)
}

// fieldPath finds the fields of a path such as book.author.name.
func fieldPath(md protoreflect.MessageDescriptor, names []string) ([]protoreflect.FieldDescriptor, error) {
	fields := make([]protoreflect.FieldDescriptor, 0, len(names))
	for i, name := range names {
		fd := fieldNamed(md, name)
		if fd == nil {
			return nil, fmt.Errorf("there is no field %s", strings.Join(names[:i+1], "."))
		}
		fields = append(fields, fd)
		if i == len(names)-1 {
			break
		}
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			return nil, fmt.Errorf("the field %s has no fields", strings.Join(names[:i+1], "."))
		}
		md = fd.Message()
	}
	return fields, nil
}

// isScalarMessage reports whether a message is one value in JSON that fits a parameter.
func isScalarMessage(md protoreflect.MessageDescriptor) bool {
	switch md.FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask",
		"google.protobuf.DoubleValue", "google.protobuf.FloatValue", "google.protobuf.Int64Value", "google.protobuf.UInt64Value",
		"google.protobuf.Int32Value", "google.protobuf.UInt32Value", "google.protobuf.BoolValue", "google.protobuf.StringValue",
		"google.protobuf.BytesValue":
		return true
	}
	return false
}
