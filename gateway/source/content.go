package source

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// content is what a set of files holds, as a digest of each. It is immutable.
type content struct {
	own    map[string]digest // the configuration, and the files that it includes
	others map[string]digest // what is followed besides
}

func (c *content) equal(other *content) bool {
	return maps.Equal(c.own, other.own) && maps.Equal(c.others, other.others)
}

// covers reports whether now is the same as c as far as both follow the same files.
func (c *content) covers(now *content) bool {
	for name, d := range now.others {
		if known, ok := c.others[name]; ok && known != d {
			return false
		}
	}
	return maps.Equal(c.own, now.own)
}

// digest stands for the content of a file, or for the reason why it has none.
type digest [sha256.Size]byte

// maxFile bounds what is read of one file; larger ones are refused when they are loaded.
const maxFile = 16<<20 + 1

// inclusion is ${file:PATH}. It is found in the text, because files that a broken configuration includes, or fails to
// find, are just those whose change may mend it.
var inclusion = regexp.MustCompile(`\$\{file:([^}\r\n]+)\}`)

// read takes the content of the configuration at path, an absolute one, and of others.
func read(path string, others []string) *content {
	c := &content{own: make(map[string]digest), others: make(map[string]digest, len(others))}
	names := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		names = c.directory(path)
		teams := filepath.Join(path, "teams")
		if entries, err := os.ReadDir(teams); err == nil {
			c.own[teams] = sha256.Sum256([]byte("directory of teams"))
			for _, entry := range entries {
				team := filepath.Join(teams, entry.Name())
				if info, err := os.Stat(team); err == nil && info.IsDir() {
					names = append(names, c.directory(team)...)
				}
			}
		}
	}
	for _, name := range names {
		data, d := readFile(name)
		c.own[name] = d
		for _, match := range inclusion.FindAllSubmatch(data, -1) {
			included := string(match[1])
			if !filepath.IsAbs(included) {
				included = filepath.Join(filepath.Dir(name), included)
			}
			if _, ok := c.own[included]; !ok {
				c.own[included] = digestOf(included)
			}
		}
	}
	for _, name := range others {
		d, ok := c.own[name]
		if !ok {
			d = digestOf(name)
		}
		c.others[name] = d
	}
	return c
}

// directory takes note of a directory, and returns the files of the configuration in it.
func (c *content) directory(path string) (names []string) {
	entries, err := os.ReadDir(path)
	c.own[path] = sha256.Sum256(fmt.Append(nil, "directory: ", err))
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) == ".yaml" && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, filepath.Join(path, entry.Name()))
		}
	}
	return names
}

func digestOf(name string) digest {
	_, d := readFile(name)
	return d
}

// readFile returns a file's content and digest. What is no regular file is not read: a pipe gives its content once, to
// whoever loads it.
func readFile(name string) ([]byte, digest) {
	fail := func(err error) ([]byte, digest) {
		var reason *os.PathError
		if errors.As(err, &reason) {
			err = reason.Err
		}
		return nil, sha256.Sum256([]byte("unreadable: " + err.Error()))
	}
	info, err := os.Stat(name)
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return nil, sha256.Sum256([]byte("no file: " + info.Mode().Type().String()))
	}
	// Were it replaced by a pipe just now, opening must not wait for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return fail(err)
	}
	h := sha256.New()
	_, _ = io.WriteString(h, "file: ")
	_, _ = h.Write(data)
	return data, digest(h.Sum(nil))
}

// places calls dir for every directory in which a change can make path lead elsewhere: the one that holds the file, and
// each that holds a symbolic link on the way. Where the path ends early, that is the last directory that exists. file
// is called for the file itself, and all names are free of links.
func places(path string, dir, file func(string)) {
	at, rest := "/", split(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		switch {
		case err != nil:
			dir(at)
			return
		case info.Mode()&os.ModeSymlink != 0:
			dir(at)
			target, err := os.Readlink(next)
			if links++; err != nil || links > maxLinks {
				return
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(split(target), rest...)
		case info.IsDir():
			if at = next; len(rest) == 0 {
				dir(at)
			}
		default:
			dir(at)
			file(next)
			return
		}
	}
}

// maxLinks is how many symbolic links a path may have, as in Linux.
const maxLinks = 40

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
