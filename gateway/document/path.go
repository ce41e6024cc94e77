package document

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Path leads from a value to values in it: customer.name, items[*].price, items[0], ["odd name"].value. [*] is every element of an
// array and every member of an object. The empty path is the value itself; it may be written as $, and so may the beginning of
// any other, as in JSONPath.
type Path struct{ steps []step }

// step is a name, an index, or all.
type step struct {
	name  string
	index int // -1 in a name
	all   bool
}

// maxSteps bounds how deep a path leads.
const maxSteps = 32

// ParsePath reads a path.
func ParsePath(text string) (Path, error) {
	var p Path
	rest, found := strings.CutPrefix(text, "$")
	if !found && text == "" {
		return p, errors.New("the path is empty; write the names on the way, as customer.name or items[*].price")
	}
	for first := !found; rest != ""; first = false {
		var s step
		var err error
		switch {
		case rest[0] == '[':
			s, rest, err = parseBracket(rest)
		case rest[0] == '.' && first:
			err = errors.New("begins with a dot")
		case rest[0] == '.':
			s, rest, err = parseName(rest[1:])
		case first:
			s, rest, err = parseName(rest)
		default:
			err = errors.New("has no dot before " + strconv.Quote(rest))
		}
		if err == nil && len(p.steps) == maxSteps {
			err = fmt.Errorf("has more than %d steps", maxSteps)
		}
		if err != nil {
			return Path{}, fmt.Errorf("%q is no path: it %w; write it as customer.name, items[*].price, items[0] or [\"odd name\"]", text, err)
		}
		p.steps = append(p.steps, s)
	}
	return p, nil
}

func parseName(text string) (s step, rest string, err error) {
	end := strings.IndexAny(text, ".[")
	if end < 0 {
		end = len(text)
	}
	switch name := text[:end]; {
	case name == "":
		return s, "", errors.New("has an empty name")
	case name == "*":
		return s, "", errors.New("has a * outside of brackets")
	case strings.ContainsAny(name, "]\"'"):
		return s, "", errors.New("has brackets or quotes in the name " + strconv.Quote(name))
	default:
		return step{name: name, index: -1}, text[end:], nil
	}
}

func parseBracket(text string) (s step, rest string, err error) {
	if strings.HasPrefix(text, "[*]") {
		return step{all: true}, text[3:], nil
	}
	if strings.HasPrefix(text, `["`) {
		quoted, err := strconv.QuotedPrefix(text[1:])
		if err != nil {
			return s, "", errors.New("has a quote without an end")
		}
		name, err := strconv.Unquote(quoted)
		rest, closed := strings.CutPrefix(text[1+len(quoted):], "]")
		if err != nil || !closed {
			return s, "", errors.New("has a [ without ]")
		}
		return step{name: name, index: -1}, rest, nil
	}
	inner, rest, closed := strings.Cut(text[1:], "]")
	if !closed {
		return s, "", errors.New("has a [ without ]")
	}
	n, err := strconv.Atoi(inner)
	if err != nil || n < 0 || strconv.Itoa(n) != inner {
		return s, "", errors.New("has [" + inner + "], which is neither an index nor [*] nor a name in double quotes")
	}
	return step{index: n}, rest, nil
}

// String writes the path as ParsePath reads it.
func (p Path) String() string {
	if len(p.steps) == 0 {
		return "$"
	}
	var b strings.Builder
	for i, s := range p.steps {
		switch {
		case s.all:
			b.WriteString("[*]")
		case !s.named():
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case s.name == "" || s.name == "*" || s.name[0] == '$' || strings.ContainsAny(s.name, ".[]\"'"):
			b.WriteString("[" + strconv.Quote(s.name) + "]")
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		}
	}
	return b.String()
}

func (s *step) named() bool { return !s.all && s.index < 0 }

// IsRoot tells the empty path.
func (p Path) IsRoot() bool { return len(p.steps) == 0 }

// Name is the member that the path leads to; ok is false where it leads to an element or to several.
func (p Path) Name() (name string, ok bool) {
	if len(p.steps) == 0 || !p.steps[len(p.steps)-1].named() {
		return "", false
	}
	return p.steps[len(p.steps)-1].name, true
}

// Sibling is the path with another name at its end. The path ends with a name.
func (p Path) Sibling(name string) Path {
	steps := slices.Clone(p.steps)
	steps[len(steps)-1] = step{name: name, index: -1}
	return Path{steps}
}

// IsMany tells whether the path may lead to several values.
func (p Path) IsMany() bool { return slices.ContainsFunc(p.steps, func(s step) bool { return s.all }) }

// Equal tells whether both paths are the same.
func (p Path) Equal(o Path) bool { return slices.Equal(p.steps, o.steps) }

// Under tells whether the path leads to o or into it.
func (p Path) Under(o Path) bool {
	return len(p.steps) >= len(o.steps) && slices.Equal(p.steps[:len(o.steps)], o.steps)
}

// Scope divides paths that are about the same values: scope leads to each of them, and rests lead on from there without a
// [*]. It is an error if the paths go different ways before their last [*]: then it would not be known which value
// belongs to which.
func Scope(paths ...Path) (scope Path, rests []Path, err error) {
	last := 0
	for i, s := range paths[0].steps {
		if s.all {
			last = i + 1
		}
	}
	scope = Path{paths[0].steps[:last:last]}
	for _, p := range paths {
		if len(p.steps) < last || !slices.Equal(p.steps[:last], scope.steps) || (Path{p.steps[last:]}).IsMany() {
			return Path{}, nil, fmt.Errorf("%s and %s must be the same up to the last [*]", paths[0], p)
		}
		rests = append(rests, Path{p.steps[last:]})
	}
	return scope, rests, nil
}
