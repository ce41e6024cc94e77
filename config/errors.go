package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Position is where a value was written. Line and Column count from 1; both are 0 for
// what has no lines: a flag, an environment variable, a file that could not be read.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Column)
}

// Error is one mistake of the configuration's author: where it is, which setting it is
// about, what is wrong and what would be right.
type Error struct {
	Pos     Position
	Path    string
	Message string
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Pos != (Position{}) {
		b.WriteString(e.Pos.String())
		b.WriteString(": ")
	}
	if e.Path != "" {
		b.WriteString(cut(e.Path, maxPath))
		b.WriteString(": ")
	}
	b.WriteString(cut(e.Message, maxMessage))
	return b.String()
}

// What is told of a mistake. Paths and messages hold what stands in the file, which may be megabytes between two quotes that somebody forgot.
const (
	maxPath    = 500
	maxMessage = 4000
)

// cut leaves out what is in the middle.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most/2], "") + " … " + strings.ToValidUTF8(s[len(s)-most/2:], "")
}

// Errorf returns an Error that knows no position yet. A Validate method of a policy's
// settings returns it with a path relative to its own block, as `rules[0].per`; the
// decoder that called Validate completes path and position.
func Errorf(path, format string, a ...any) *Error {
	return &Error{Path: path, Message: fmt.Sprintf(format, a...)}
}

// Path of an entry of a block, as routes.users or routes["a.b"].
func Path(section, name string) string { return joinKey(section, name) }

// Errors is every mistake found, in the order of files and lines.
type Errors []*Error

// Error lists the errors, one a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.Is and errors.As each single error.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// Err is nil when there is no error. Use it wherever Errors becomes an error, because an
// empty Errors in an error variable is not nil.
func (es Errors) Err() error {
	if len(es) == 0 {
		return nil
	}
	es.sort()
	return es
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b *Error) int {
		if c := strings.Compare(a.Pos.File, b.Pos.File); c != 0 {
			return c
		}
		if c := a.Pos.Line - b.Pos.Line; c != 0 {
			return c
		}
		if c := a.Pos.Column - b.Pos.Column; c != 0 {
			return c
		}
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(a.Message, b.Message)
	})
}

// flatten returns the single errors inside err: those of Errors and errors.Join, each as
// an *Error. What is no *Error becomes one without path.
func flatten(err error) Errors {
	switch e := err.(type) {
	case nil:
		return nil
	case *Error:
		return Errors{e}
	case interface{ Unwrap() []error }:
		var all Errors
		for _, inner := range e.Unwrap() {
			all = append(all, flatten(inner)...)
		}
		return all
	}
	var single *Error
	if errors.As(err, &single) {
		return Errors{single}
	}
	return Errors{{Message: err.Error()}}
}
