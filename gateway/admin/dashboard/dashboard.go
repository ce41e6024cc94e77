// Package dashboard is what people see of the admin listener: one page with the styles and scripts that belong to it, all
// in the binary. It guarantees that a browser runs nothing but these files and asks nobody but the listener that they come
// from. They hold no data: that comes from the API, which asks for the token where one is set.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path"

	"github.com/valyala/fasthttp"
)

// Path is what the paths of all files but the page begin with.
const Path = "/dashboard/"

// DeveloperPath is what the paths begin with that belong to a consumer's own page: a proxy that lets these through, and no others,
// publishes the page and nothing else.
const DeveloperPath = "/developer/"

// policy lets a page use its own files and the API, and nothing else: of what stands in the page only the script and the style with
// these hashes, and no text that becomes markup.
func policy(script, style string) string {
	return "default-src 'none'; script-src 'self' " + script + "; style-src 'self' " + style + "; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

// The pages as they are written, and what `make generate` makes of their modules and styles: one file of each, which a browser gets at once.
//
//go:embed web/index.html web/developer/index.html web/start.js web/icon.svg generated
var web embed.FS

// file is a file with what goes with it.
type file struct {
	data        []byte
	contentType string
	etag        string
}

// document is a page with what it may do.
type document struct {
	data   []byte
	policy string
}

var (
	page      = newDocument("web/index.html", Path)
	developer = newDocument("web/developer/index.html", DeveloperPath)

	// files by path, as they are asked for. The consumer's page has its own, so that nothing else need be published with it.
	files = map[string]*file{
		Path + "main.js":           newFile("generated/operators.js"),
		Path + "icon.svg":          newFile("web/icon.svg"),
		DeveloperPath + "main.js":  newFile("generated/developer.js"),
		DeveloperPath + "icon.svg": newFile("web/icon.svg"),
	}
)

// newDocument puts what a page's first paint needs into it, the script that begins it and the styles: it waits for no second request. The
// module that the page names is loaded behind that.
func newDocument(name, path string) document {
	script, style := read("web/start.js"), read("generated/style.css")
	head := fmt.Sprintf("  <meta name=\"module\" content=\"%smain.js\">\n  <script>%s</script>\n  <style>%s</style>\n</head>", path, script, style)
	return document{bytes.Replace(read(name), []byte("</head>"), []byte(head), 1), policy(hashOf(script), hashOf(style))}
}

// hashOf names what stands in a page, as its policy does.
func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func read(name string) []byte {
	data, err := web.ReadFile(name)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return data
}

func newFile(name string) *file {
	data := read(name)
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
	panic("BUG: no type for " + name)
}

// Has tells whether a path is one of a file.
func Has(path []byte) bool { return files[string(path)] != nil || string(path) == DeveloperPath }

// Page answers with the operators' page.
func Page(ctx *fasthttp.RequestCtx) { show(ctx, &page) }

// Developer answers with a consumer's page, which is the same for all: the link that it is opened with tells it whose it is.
func Developer(ctx *fasthttp.RequestCtx) { show(ctx, &developer) }

func show(ctx *fasthttp.RequestCtx, d *document) {
	ctx.Response.Header.Set(fasthttp.HeaderContentSecurityPolicy, d.policy)
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.SetBody(d.data)
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
