package grpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream"
)

// Bounds of asking a service for its descriptors.
const (
	reflectTimeout = 5 * time.Second
	reflectAgain   = 10 * time.Second // between two tries
	maxReflected   = 64 << 20
)

// reflected is what a service has told of itself.
type reflected struct {
	t     *transcoder
	known atomic.Pointer[schema]

	mu    sync.Mutex // one asks, the others wait
	asked time.Time
	err   error
}

// schema returns what is known. The first request waits for it; anew asks
// again, unless that was done just before.
func (r *reflected) schema(anew bool) (*schema, error) {
	if s := r.known.Load(); s != nil && !anew {
		return s, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known.Load()
	pause := reflectAgain
	if s == nil {
		pause = time.Second
	}
	if s != nil && !anew || !r.asked.IsZero() && time.Since(r.asked) < pause {
		if s == nil {
			return nil, rejectNoSchema
		}
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), reflectTimeout)
	defer cancel()
	var fresh *schema
	set, err := reflect(ctx, r.t.service)
	if err == nil {
		fresh, err = newSchema(set, r.t.config)
	}
	r.asked, r.err = time.Now(), err
	switch {
	case err == nil:
		r.known.Store(fresh)
		return fresh, nil
	case s != nil:
		return s, nil
	}
	return nil, rejectNoSchema
}

// The fields of grpc.reflection.v1, which are those of v1alpha.
const (
	askFile     = 3
	askSymbol   = 4
	askServices = 7

	tellFiles    = 4
	tellServices = 6
	tellError    = 7
)

// reflect asks for the descriptors of all services.
func reflect(ctx context.Context, s *upstream.Service) (*descriptorpb.FileDescriptorSet, error) {
	version := "v1"
	services, err := ask(ctx, s, version, []question{{askServices, "*"}})
	var status *upstream.StatusError
	if errors.As(err, &status) && status.Code == grpcwire.Unimplemented {
		version = "v1alpha"
		services, err = ask(ctx, s, version, []question{{askServices, "*"}})
	}
	if err != nil {
		return nil, err
	}
	var questions []question
	for _, name := range services.services {
		if !strings.HasPrefix(name, "grpc.reflection.") {
			questions = append(questions, question{askSymbol, name})
		}
	}
	set := new(descriptorpb.FileDescriptorSet)
	have := make(map[string]bool)
	for len(questions) > 0 {
		got, err := ask(ctx, s, version, questions)
		if err != nil {
			return nil, err
		}
		questions = nil
		for _, data := range got.files {
			f := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(data, f); err != nil {
				return nil, fmt.Errorf("a descriptor is malformed: %w", err)
			}
			if !have[f.GetName()] {
				have[f.GetName()] = true
				set.File = append(set.File, f)
			}
		}
		asked := make(map[string]bool)
		for _, f := range set.GetFile() {
			for _, name := range f.GetDependency() {
				if have[name] || asked[name] {
					continue
				}
				if _, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil {
					continue
				}
				asked[name] = true
				questions = append(questions, question{askFile, name})
			}
		}
		if len(got.files) == 0 && len(questions) > 0 {
			return nil, errors.New("the service does not tell all of its descriptors")
		}
	}
	return set, nil
}

type question struct {
	kind protowire.Number
	text string
}

type told struct {
	services []string
	files    [][]byte
}

// ask asks in one call.
func ask(ctx context.Context, s *upstream.Service, version string, questions []question) (*told, error) {
	var body []byte
	for _, q := range questions {
		m := protowire.AppendString(protowire.AppendTag(nil, q.kind, protowire.BytesType), q.text)
		body = grpcwire.AppendFrame(body, 0, m)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := s.Invoke(ctx, "/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReflected))
	if err != nil {
		return nil, err
	}
	if err := upstream.StatusOf(res); err != nil {
		return nil, err
	}
	t := new(told)
	for len(data) > 0 {
		if len(data) < grpcwire.FrameHead || data[0] != 0 {
			return nil, errMalformed
		}
		n := binary.BigEndian.Uint32(data[1:])
		if data = data[grpcwire.FrameHead:]; uint64(n) > uint64(len(data)) {
			return nil, errMalformed
		}
		if err := t.read(data[:n]); err != nil {
			return nil, err
		}
		data = data[n:]
	}
	return t, nil
}

// read reads a ServerReflectionResponse.
func (t *told) read(m []byte) error {
	return eachField(m, func(n protowire.Number, value []byte) error {
		switch n {
		case tellFiles:
			return eachField(value, func(n protowire.Number, file []byte) error {
				if n == 1 {
					t.files = append(t.files, file)
				}
				return nil
			})
		case tellServices:
			return eachField(value, func(n protowire.Number, service []byte) error {
				if n != 1 {
					return nil
				}
				return eachField(service, func(n protowire.Number, name []byte) error {
					if n == 1 {
						t.services = append(t.services, string(name))
					}
					return nil
				})
			})
		case tellError:
			return errors.New("the service does not tell its descriptors")
		}
		return nil
	})
}

// eachField calls f with the fields of a message that hold bytes.
func eachField(m []byte, f func(protowire.Number, []byte) error) error {
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return errMalformed
		}
		m = m[n:]
		if kind == protowire.BytesType {
			value, n := protowire.ConsumeBytes(m)
			if n < 0 {
				return errMalformed
			}
			if err := f(number, value); err != nil {
				return err
			}
			m = m[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, m); n < 0 {
			return errMalformed
		}
		m = m[n:]
	}
	return nil
}
