// Package file finds endpoints in a file, and again whenever it changes.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"sluice/config"
	"sluice/gateway/discovery"
	configuration "sluice/gateway/source"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "file", Open: open}

type source struct{ path string }

func open(d *config.Discovery) (discovery.Source, error) { return &source{d.File.Path}, nil }

func (s *source) Where() string { return "file " + s.path }

// Watch reads the file. When that fails it waits for a change: so one that is made later, or mended, counts at once.
func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	watched := configuration.Open(s.path, config.Options{})
	watched.Mark()
	tell(s.read())
	watched.Watch(ctx, func() { tell(s.read()) })
	return ctx.Err()
}

// maxFile bounds the file.
const maxFile = 4 << 20

func (s *source) read() ([]discovery.Endpoint, error) {
	f, err := os.Open(s.path)
	if err != nil {
		var reason *os.PathError
		if errors.As(err, &reason) {
			err = reason.Err
		}
		return nil, fmt.Errorf("cannot read %s: %w", s.path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", s.path, err)
	case len(text) > maxFile:
		return nil, fmt.Errorf("%s is larger than 4 MiB", s.path)
	}
	set, err := discovery.ReadList(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return set, nil
}
