package schema

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
)

const module = "sluice/"

// docs reads doc comments from the module's sources, a package at a time.
type docs struct {
	root string
	read map[string]map[string]string // package path -> Type or Type.Field -> comment
	err  error
}

func newDocs(root string) *docs {
	return &docs{root: root, read: map[string]map[string]string{}}
}

// typ is the comment of a type, as users read it.
func (d *docs) typ(t reflect.Type) string {
	return forUsers(d.comment(t, t.Name()), t.Name(), words(t.Name()))
}

// field is the comment of a field, which talks about the setting of the name.
func (d *docs) field(owner reflect.Type, goName, name string) string {
	return forUsers(d.comment(owner, owner.Name()+"."+goName), goName, "`"+name+"`")
}

func (d *docs) comment(t reflect.Type, key string) string {
	pkg := t.PkgPath()
	if !strings.HasPrefix(pkg, module) {
		return ""
	}
	comments, ok := d.read[pkg]
	if !ok {
		comments = d.parse(pkg)
		d.read[pkg] = comments
	}
	return comments[key]
}

func (d *docs) parse(pkg string) map[string]string {
	comments := map[string]string{}
	dir := filepath.Join(d.root, filepath.FromSlash(strings.TrimPrefix(pkg, module)))
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err == nil && len(files) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		d.err = fmt.Errorf("cannot read the sources of %s in %s: %w", pkg, dir, err)
		return comments
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			d.err = fmt.Errorf("cannot read %s: %w", name, err)
			return comments
		}
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				spec := spec.(*ast.TypeSpec)
				comment := spec.Doc
				if comment == nil && len(group.Specs) == 1 {
					comment = group.Doc
				}
				comments[spec.Name.Name] = oneLine(comment)
				if st, ok := spec.Type.(*ast.StructType); ok {
					addFields(comments, spec.Name.Name, st)
				}
			}
		}
	}
	return comments
}

func addFields(comments map[string]string, prefix string, st *ast.StructType) {
	for _, f := range st.Fields.List {
		comment := f.Doc
		if comment == nil {
			comment = f.Comment
		}
		for _, name := range f.Names {
			comments[prefix+"."+name.Name] = oneLine(comment)
		}
	}
}

func oneLine(comment *ast.CommentGroup) string {
	if comment == nil {
		return ""
	}
	return strings.Join(strings.Fields(comment.Text()), " ")
}

// forUsers takes the Go name off the front of a comment: "Budget is the share …" becomes
// "The share …", "MaxRoutes bounds …" becomes "`max_routes` bounds …", and words that are
// English as they are stay.
func forUsers(comment, goName, name string) string {
	rest, ok := strings.CutPrefix(comment, goName)
	if !ok {
		return comment
	}
	for _, verb := range []string{" is ", " are ", ": "} {
		if said, ok := strings.CutPrefix(rest, verb); ok {
			return upperFirst(said)
		}
	}
	if strings.HasPrefix(rest, " ") && strings.ContainsAny(goName[1:], "ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		return upperFirst(name + rest)
	}
	return comment
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// words parts a Go name: MaxRoutes is "max routes".
func words(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && 'A' <= r && r <= 'Z' && (name[i-1] < 'A' || name[i-1] > 'Z') {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
