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

// DeveloperPath is what the paths begin with that belong to a consumer's own page: a proxy that lets these through, and no others,
// publishes the page and nothing else.
const DeveloperPath = "/developer/"

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
	page      *file
	developer *file
	files     = make(map[string]*file) // by path, as it is asked for
)

func init() {
	err := fs.WalkDir(web, "web", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) == ".css" {
			return err
		}
		f, short := newFile(name, read(name)), strings.TrimPrefix(name, "web/")
		if own, ok := strings.CutPrefix(short, "developer/"); ok {
			files[DeveloperPath+own] = f
			return nil
		}
		files[Path+short] = f
		// The consumer's page has the same parts, but a token of its own.
		if strings.HasPrefix(short, "lib/") && short != "lib/session.js" || short == "theme.js" || short == "icon.svg" {
			files[DeveloperPath+short] = f
		}
		return nil
	})
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var joined []byte
	for _, name := range styles {
		joined = append(joined, read("web/style/"+name+".css")...)
	}
	files[Path+"style.css"] = newFile("style.css", joined)
	files[DeveloperPath+"style.css"] = files[Path+"style.css"]
	page, developer = files[Path+"index.html"], files[DeveloperPath+"index.html"]
	delete(files, Path+"index.html")
	delete(files, DeveloperPath+"index.html")
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
func Has(path []byte) bool { return files[string(path)] != nil || string(path) == DeveloperPath }

// Page answers with the operators' page.
func Page(ctx *fasthttp.RequestCtx) { show(ctx, page) }

// Developer answers with a consumer's page, which is the same for all: the link that it is opened with tells it whose it is.
func Developer(ctx *fasthttp.RequestCtx) { show(ctx, developer) }

func show(ctx *fasthttp.RequestCtx, page *file) {
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
