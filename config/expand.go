package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Expansion, inside every text value of a file, never in a key:
//
//	${NAME}           the environment variable; an undefined one is an error
//	${NAME:-default}  the same, or the default when it is undefined or empty
//	${file:PATH}      the content of the file without its last line break; PATH is relative
//	                  to the file that names it
//	$${               a literal ${
//
// Names of the environment are upper case: [A-Z_][A-Z0-9_]*. Everything else in ${…}, as
// ${host}, ${uri}, ${header.x} or ${path.id}, is a template that is filled in for each
// request: it passes untouched, and only settings that take templates accept it. What is
// put in is not expanded again.

const (
	maxSecretFile = 1 << 20
	// maxPut is how much may be put into the texts of one file in all.
	maxPut = 4 * maxFileSize
)

const (
	// maxNested is how many defaults may stand in one another.
	maxNested = 8
	// maxShown is how many bytes of a text that has no end stand in the error.
	maxShown = 100
)

type expander struct {
	env      map[string]string
	files    map[string]bool // read so far
	confined bool            // neither environment nor files may be put in
	put      int             // bytes so far
	path     trail
	errs     Errors
}

// tree expands every scalar below n, a node of the file in the folder dir.
func (e *expander) tree(n *node, dir string) {
	for _, f := range n.fields {
		e.path.enterKey(f.key)
		e.tree(f.value, dir)
		e.path.leave()
	}
	for i, item := range n.items {
		e.path.enterIndex(i)
		e.tree(item, dir)
		e.path.leave()
	}
	if n.kind != scalar || !strings.Contains(n.text, "${") {
		return
	}
	text, template, err := e.text(n.text, dir)
	if err != nil {
		e.errs = append(e.errs, &Error{Pos: n.pos(), Path: e.path.String(), Message: err.Error()})
		return
	}
	if text != n.text {
		n.raw = n.text
	}
	n.text, n.template = text, template
}

// text expands s and tells whether templates were left in it.
func (e *expander) text(s, dir string) (expanded string, template bool, err error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), template, nil
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		name := envName(s[i+2:])
		isFile := strings.HasPrefix(s[i+2:], "file:")
		if name == "" && !isFile {
			// Its end is not looked for: that would be the rest of the text for each place of it.
			template = true
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		inner, rest, closed := cutBrace(s[i+2:])
		switch {
		case !closed && rest != "":
			return "", false, fmt.Errorf("${%s has more than %d defaults in one another", inner, maxNested)
		case e.confined:
			return "", false, fmt.Errorf("${%s} can not stand in a team's file, which sees neither the environment nor the files of the gateway; write $${ for a literal ${", inner)
		case !closed:
			return "", false, fmt.Errorf("${%s has no closing brace; write ${NAME}, ${NAME:-default} or ${file:PATH}", inner)
		case isFile:
			content, err := e.file(strings.TrimPrefix(inner, "file:"), dir)
			if err != nil {
				return "", false, err
			}
			if err := e.spend(content); err != nil {
				return "", false, err
			}
			b.WriteString(content)
		default:
			value, ok := e.env[name]
			fallback, hasFallback := strings.CutPrefix(inner[len(name):], ":-")
			switch {
			case hasFallback && value == "":
				if value, _, err = e.text(fallback, dir); err != nil {
					return "", false, err
				}
			case !hasFallback && inner != name:
				return "", false, fmt.Errorf("${%s} is not understood; write ${%s} or ${%s:-default}", inner, name, name)
			case !hasFallback && !ok:
				return "", false, fmt.Errorf("the environment variable %s is not set; set it or write ${%s:-default}", name, name)
			}
			if err := e.spend(value); err != nil {
				return "", false, err
			}
			b.WriteString(value)
		}
		s = rest
	}
}

func (e *expander) spend(text string) error {
	if e.put += len(text); e.put > maxPut {
		return fmt.Errorf("more than %s would be put into the file in place of ${…}", Size(maxPut))
	}
	return nil
}

// envName returns the environment name that s begins with, or nothing where s can not be
// meant as one, as in HeaderName or A.b.
func envName(s string) string {
	i := 0
	for i < len(s) && (s[i] == '_' || 'A' <= s[i] && s[i] <= 'Z' || i > 0 && '0' <= s[i] && s[i] <= '9') {
		i++
	}
	if i < len(s) && !strings.ContainsRune(":-?+=}", rune(s[i])) {
		return ""
	}
	return s[:i]
}

// cutBrace splits behind the brace that closes the one before s. Where there is none inner is how s begins, and rest is what is left where
// others are nested too deep to look further: each of them would be cut out of all that are around it.
func cutBrace(s string) (inner, rest string, closed bool) {
	depth := 0
	for i := range len(s) {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			if depth++; depth > maxNested {
				return s[:min(i, maxShown)], s[i:], false
			}
		case s[i] == '}' && depth == 0:
			return s[:i], s[i+1:], true
		case s[i] == '}':
			depth--
		}
	}
	return s[:min(len(s), maxShown)], "", false
}

func (e *expander) file(path, dir string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("${file:} names no file; write ${file:PATH}")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	e.files[path] = true
	data, err := readFile(path, maxSecretFile)
	if err != nil {
		return "", fmt.Errorf("${file:%s}: %w", path, err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	data = bytes.TrimSuffix(data, []byte("\r"))
	return string(data), nil
}

// readFile reads a regular file or a pipe of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, shorten(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, shorten(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("the file is larger than %s", Size(limit))
	}
	return data, nil
}

// shorten drops operation and path, which the message has already.
func shorten(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}
