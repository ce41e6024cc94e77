// Package dashboard is what people see of the admin listener: one page with the styles and scripts that belong to it, all
// in the binary. It guarantees that a browser runs nothing but these files and asks nobody but the listener that they come
// from. They hold no data: that comes from the API, which asks for the token where one is set.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"path"
	"strings"

	"github.com/valyala/fasthttp"
)

// Path is what the paths of all files but the page begin with.
const Path = "/dashboard/"

// policy lets the page use its own files and the API, and nothing else: no script that stands in the page, no text that
// becomes markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

//go:embed web
var web embed.FS

// file is a file with what goes with it.
type file struct {
	data        []byte
	contentType string
	etag        string
}

// styles are sent as one file, since nothing is painted before the last of them is there.
var styles = []string{"base", "layout", "parts"}

var (
	page  *file
	files = make(map[string]*file) // by path, as it is asked for
)

func init() {
	err := fs.WalkDir(web, "web", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && path.Ext(name) != ".css" {
			files[Path+strings.TrimPrefix(name, "web/")] = newFile(name, read(name))
		}
		return err
	})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var joined []byte
	for _, name := range styles {
		joined = append(joined, read("web/style/"+name+".css")...)
	}
	files[Path+"style.css"] = newFile("style.css", joined)
	page = files[Path+"index.html"]
	delete(files, Path+"index.html")
}

func read(name string) []byte {
	data, err := web.ReadFile(name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return data
}

func newFile(name string, data []byte) *file {
	sum := sha256.Sum256(data)
	return &file{data, typeOf(name), `"` + hex.EncodeToString(sum[:12]) + `"`}
}

// typeOf does not ask the system, which may call a script something else.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return mime.TypeByExtension(path.Ext(name))
}

// Has tells whether a path is one of a file.
func Has(path []byte) bool { return files[string(path)] != nil }

// Page answers with the page.
func Page(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, policy)
	ctx.SetContentType(page.contentType)
	ctx.SetBody(page.data)
}

// File answers with the file that the path names; it returns false when there is none. Browsers may keep a file and ask
// whether it is still the same, so that a new binary is seen at once.
func File(ctx *fasthttp.RequestCtx) bool {
	f := files[string(ctx.Path())]
	if f == nil {
		return false
	}
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderCacheControl, "no-cache")
	h.Set(fasthttp.HeaderETag, f.etag)
	if bytes.Contains(ctx.Request.Header.Peek(fasthttp.HeaderIfNoneMatch), []byte(f.etag)) {
		ctx.SetStatusCode(fasthttp.StatusNotModified)
		return true
	}
	ctx.SetContentType(f.contentType)
	ctx.SetBody(f.data)
	return true
}
