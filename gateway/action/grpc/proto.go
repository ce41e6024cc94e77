package grpc

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// compileTimeout bounds the compilation of a .proto file.
const compileTimeout = 30 * time.Second

// includes are where imports are looked for behind the folder of the file.
var includes = []string{"/usr/local/include", "/usr/include"}

// compileProto compiles a .proto file. What it imports is looked for below its folder and the usual ones; google/api and
// google/protobuf are known.
func compileProto(file string) (*descriptorpb.FileDescriptorSet, error) {
	known := protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
		if !strings.HasPrefix(path, "google/") {
			return protocompile.SearchResult{}, protoregistry.NotFound
		}
		fd, err := protoregistry.GlobalFiles.FindFileByPath(path)
		return protocompile.SearchResult{Desc: fd}, err
	})
	c := protocompile.Compiler{Resolver: protocompile.CompositeResolver{
		&protocompile.SourceResolver{ImportPaths: append([]string{filepath.Dir(file)}, includes...)},
		known,
	}}
	ctx, cancel := context.WithTimeout(context.Background(), compileTimeout)
	defer cancel()
	files, err := c.Compile(ctx, filepath.Base(file))
	if err != nil {
		return nil, err
	}
	set, seen := new(descriptorpb.FileDescriptorSet), map[string]bool{}
	var add func(fd protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(fd))
	}
	for _, fd := range files {
		add(fd)
	}
	// Read again, so that options are those that this program knows by their types.
	data, err := proto.Marshal(set)
	if err != nil {
		return nil, err
	}
	typed := new(descriptorpb.FileDescriptorSet)
	return typed, proto.Unmarshal(data, typed)
}
