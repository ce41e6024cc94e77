package config

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
)

var documentMark = regexp.MustCompile(`(?m)^---[ \t]*(#.*)?\r?$`)

// isManifest tells objects of Kubernetes from a native file, which has no such setting.
func isManifest(data []byte) bool {
	return bytes.HasPrefix(data, []byte("apiVersion:")) || bytes.Contains(data, []byte("\napiVersion:"))
}

// maxDocuments bounds the objects of a file.
const maxDocuments = 1000

// manifests reads objects of Kubernetes into the tree. Native services of the same name, wherever they stand, come before
// those that objects make: so all objects wait until every file is read.
func (l *loader) manifests(name string, data []byte) {
	fail := func(at Position, format string, a ...any) {
		l.errs = append(l.errs, &Error{Pos: at, Message: fmt.Sprintf(format, a...)})
	}
	if l.options.Manifests == nil {
		fail(Position{File: name, Line: 1, Column: 1}, "these are objects of Kubernetes, which are not understood here")
		return
	}
	marks := append(documentMark.FindAllIndex(data, -1), []int{len(data), len(data)})
	if len(marks) > maxDocuments {
		fail(Position{File: name, Line: 1, Column: 1}, "the file has more than %d objects; split it", maxDocuments)
		return
	}
	from, line := 0, 0
	for _, mark := range marks {
		text := data[from:mark[0]]
		root, errs := parseTree(name, text)
		for _, e := range errs {
			e.Pos.Line += line
		}
		l.errs = append(l.errs, errs...)
		if len(errs) == 0 && root.kind != null {
			root.moveDown(int32(line))
			native, remarks, errs := l.options.Manifests(Tree{root})
			l.remarks = append(l.remarks, remarks...)
			l.errs = append(l.errs, errs...)
			if len(errs) == 0 {
				l.objects = append(l.objects, native.n)
			}
		}
		line += bytes.Count(data[from:mark[1]], []byte("\n"))
		from = mark[1]
	}
}

// moveDown has a tree stand some lines further down in its file.
func (n *node) moveDown(lines int32) {
	n.line += lines
	if n.keyLine > 0 {
		n.keyLine += lines
	}
	for _, f := range n.fields {
		f.value.moveDown(lines)
	}
	for _, item := range n.items {
		item.moveDown(lines)
	}
}

// takeObjects merges what objects of Kubernetes mean. Several may lead to one service.
func (l *loader) takeObjects() {
	made := map[string]bool{}
	for _, object := range l.objects {
		services := object.child("services")
		if services != nil {
			services.fields = slices.DeleteFunc(services.fields, func(f field) bool {
				if !made[f.key] && l.root.child("services").child(f.key) == nil {
					made[f.key] = true
					return false
				}
				return true
			})
			if len(services.fields) == 0 {
				object.remove("services")
			}
		}
		l.merge(object)
	}
}
