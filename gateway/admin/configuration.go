package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway"
	"sluice/gateway/source"
)

// configView is the answer of GET /api/config.
type configView struct {
	gateway.Status
	// Writable tells whether PUT can replace the configuration.
	Writable bool     `json:"writable"`
	Files    []string `json:"files"`
	Config   any      `json:"config"`
}

func (s *Server) config(ctx *fasthttp.RequestCtx) {
	etag := s.etag()
	v := configView{Status: s.o.Gateway.Status(), Writable: s.o.WriteBack != nil || s.o.Store != nil, Files: []string{}}
	if c := s.o.Gateway.Config(); c != nil {
		v.Files, v.Config = append(v.Files, c.Files()...), c.View()
	}
	setETag(ctx, etag)
	reply(ctx, v)
}

// setETag tells the version of a configuration, unless its store can not be asked for it.
func setETag(ctx *fasthttp.RequestCtx, etag string) {
	if etag != "" {
		ctx.Response.Header.Set(fasthttp.HeaderETag, etag)
	}
}

// etag names the configuration in force, and the content of its file where that can be read. It is keyed, so that it
// tells nothing about secrets in the file.
func (s *Server) etag() string {
	if s.o.Store != nil {
		_, version, err := s.o.Store.Text()
		if err != nil {
			return ""
		}
		return quote(version)
	}
	h := hmac.New(sha256.New, s.nonce[:])
	h.Write(strconv.AppendUint(nil, s.o.Gateway.Status().Generation, 10))
	if s.o.Read != nil {
		h.Write([]byte{0})
		if data, err := s.o.Read(); err == nil {
			h.Write(data)
		}
	}
	return `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`
}

func quote(version string) string { return `"` + version + `"` }

func (s *Server) reload(ctx *fasthttp.RequestCtx) {
	if s.o.Reload == nil {
		fail(ctx, fasthttp.StatusConflict, "no_source", "this configuration has no source to load again")
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	from, before := s.o.Gateway.Config(), s.o.Gateway.Status().Generation
	if err := s.o.Reload(); err != nil {
		s.refuse(ctx, err, "the configuration was not reloaded; the running one stays in force")
		return
	}
	configChange(ctx, from, s.o.Gateway.Config(), before, s.o.Gateway.Status().Generation)
	s.changed(ctx)
}

func (s *Server) replaceConfig(ctx *fasthttp.RequestCtx) {
	if s.o.WriteBack == nil && s.o.Store == nil || s.o.Reload == nil {
		fail(ctx, fasthttp.StatusConflict, "not_writable", "only a configuration that comes from a single file, or from one key of a store, can be replaced")
		return
	}
	data := ctx.PostBody()
	if len(strings.TrimSpace(string(data))) == 0 {
		fail(ctx, fasthttp.StatusBadRequest, "empty_body", "send the whole configuration as YAML")
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.o.Store != nil {
		s.replaceStored(ctx, data)
		return
	}
	if !s.matches(ctx) {
		fail(ctx, fasthttp.StatusPreconditionFailed, "changed_meanwhile", "the configuration is another one than If-Match names; get it again")
		return
	}
	c, err := s.o.Parse(data)
	if err == nil {
		err = s.o.Gateway.Check(c)
	}
	if err != nil {
		s.refuse(ctx, err, "the configuration is not valid; nothing was changed")
		return
	}
	from, before := s.o.Gateway.Config(), s.o.Gateway.Status().Generation
	if err := s.write(data); err != nil {
		s.refuse(ctx, err, "the configuration was not replaced; the running one stays in force")
		return
	}
	configChange(ctx, from, s.o.Gateway.Config(), before, s.o.Gateway.Status().Generation)
	s.changed(ctx)
}

// replaceStored is replaceConfig where others may write too: what was read is compared once more when it is replaced.
func (s *Server) replaceStored(ctx *fasthttp.RequestCtx, data []byte) {
	conditional := len(ctx.Request.Header.PeekAll(fasthttp.HeaderIfMatch)) > 0
	changed := func() {
		status := fasthttp.StatusConflict
		if conditional {
			status = fasthttp.StatusPreconditionFailed
		}
		fail(ctx, status, "changed_meanwhile", "the configuration was changed by another one meanwhile; get it again")
	}
	before, version, err := s.o.Store.Text()
	switch {
	case errors.Is(err, source.ErrParts):
		fail(ctx, fasthttp.StatusConflict, "not_writable", err.Error())
		return
	case err != nil:
		fail(ctx, fasthttp.StatusServiceUnavailable, "store_unreachable", err.Error())
		return
	case conditional && !names(ctx.Request.Header.PeekAll(fasthttp.HeaderIfMatch), quote(version)):
		changed()
		return
	}
	c, err := s.o.Parse(data)
	if err == nil {
		err = s.o.Gateway.Check(c)
	}
	if err != nil {
		s.refuse(ctx, err, "the configuration is not valid; nothing was changed")
		return
	}
	written, err := s.o.Store.Write(data, version)
	switch {
	case errors.Is(err, source.ErrChanged):
		changed()
		return
	case err != nil:
		fail(ctx, fasthttp.StatusServiceUnavailable, "store_unreachable", err.Error())
		return
	}
	if err := s.o.Reload(); err != nil {
		if _, undo := s.o.Store.Write(before, written); undo != nil {
			s.log.Error("cannot restore the configuration in its store", "error", undo.Error())
			err = errors.Join(err, undo)
		}
		s.refuse(ctx, err, "the configuration was not replaced; the running one stays in force")
		return
	}
	s.changed(ctx)
}

// write puts a checked configuration into its file and in force, or leaves both as they are.
func (s *Server) write(data []byte) error {
	var before []byte
	if s.o.Read != nil {
		var err error
		if before, err = s.o.Read(); err != nil {
			return err
		}
	}
	if err := s.o.WriteBack(data); err != nil {
		return err
	}
	err := s.o.Reload()
	if err == nil || before == nil {
		return err
	}
	if undo := s.o.WriteBack(before); undo != nil {
		s.log.Error("cannot restore the configuration file", "error", undo.Error())
		return errors.Join(err, undo)
	}
	return err
}

// matches tells whether If-Match, where there is one, names the configuration (RFC 9110, section 13.1.1). Without one a
// client means to replace whatever is there, as with Caddy, Kong and Kubernetes.
func (s *Server) matches(ctx *fasthttp.RequestCtx) bool {
	given := ctx.Request.Header.PeekAll(fasthttp.HeaderIfMatch)
	if len(given) == 0 {
		return true
	}
	return names(given, s.etag())
}

// changed answers with what is in force now.
func (s *Server) changed(ctx *fasthttp.RequestCtx) {
	setETag(ctx, s.etag())
	reply(ctx, s.o.Gateway.Status())
}

// refuse answers with the mistakes of a configuration, or with what went wrong beside it.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error, detail string) {
	if list := mistakes(err); list != nil {
		fail(ctx, fasthttp.StatusBadRequest, "invalid_configuration", detail, list...)
		return
	}
	fail(ctx, fasthttp.StatusInternalServerError, "not_applied", detail, mistake{Message: err.Error()})
}
