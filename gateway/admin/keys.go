package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/keys"
)

// keyView is an API key without anything that could be tried against it.
type keyView struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Source is configuration, or api for a key that was made at run time.
	Source string `json:"source"`
	// State is active, expired or revoked.
	State      string         `json:"state"`
	Hint       string         `json:"hint,omitempty"`
	Created    time.Time      `json:"created,omitzero"`
	Expires    time.Time      `json:"expires,omitzero"`
	Revoked    time.Time      `json:"revoked,omitzero"`
	LastUsed   time.Time      `json:"last_used,omitzero"`
	CIDRs      []netip.Prefix `json:"cidrs,omitempty"`
	Methods    []string       `json:"methods,omitempty"`
	Paths      []string       `json:"paths,omitempty"`
	Replaces   string         `json:"replaces,omitempty"`
	ReplacedBy string         `json:"replaced_by,omitempty"`
}

// newKeyView is a key with what is shown this once.
type newKeyView struct {
	Consumer string `json:"consumer"`
	Key      string `json:"key"`
	changedKeyView
}

// changedKeyView is a key after a change.
type changedKeyView struct {
	keyView
	// Others is when other instances know of the change: soon, or later where the shared store does not answer.
	Others string `json:"others,omitempty"`
}

func (s *Server) viewKey(k *keys.Key) keyView {
	r := k.View()
	return keyView{
		ID: r.ID, Name: r.Name, Source: "api", State: k.State(s.now()), Hint: r.Hint, Created: r.Created, Expires: r.Expires, Revoked: r.Revoked,
		LastUsed: r.LastUsed, CIDRs: r.CIDRs, Methods: r.Methods, Paths: r.Paths, Replaces: r.Replaces, ReplacedBy: r.ReplacedBy,
	}
}

// viewKeys lists the keys of a consumer: those of the configuration, nil for a consumer that has left it, and those made since.
func (s *Server) viewKeys(name string, c *config.Consumer) []keyView {
	views := []keyView{}
	if c != nil {
		for _, k := range c.APIKeys {
			v := keyView{ID: k.ID, Source: "configuration", State: "active", Expires: k.Expires}
			if !k.Expires.IsZero() && !s.now().Before(k.Expires) {
				v.State = "expired"
			}
			views = append(views, v)
		}
	}
	if store := s.o.Gateway.Keys(); store != nil {
		for _, k := range store.List(name) {
			if c == nil || k.Tenant == c.Tenant {
				views = append(views, s.viewKey(k))
			}
		}
	}
	return views
}

// consumer returns the consumer that the path names, and the keys that were made at run time; without either it answers. A
// consumer that has left the configuration is nil.
func (s *Server) consumer(ctx *fasthttp.RequestCtx) (name string, c *config.Consumer, store *keys.Store, ok bool) {
	current := s.snapshot(ctx)
	if current == nil {
		return "", nil, nil, false
	}
	name = pathValue(ctx, "name")
	c, store = current.Config.Consumers[name], s.o.Gateway.Keys()
	if scope := tenantOf(ctx); scope != "" && (c == nil || c.Tenant != scope) || c == nil && (store == nil || len(store.List(name)) == 0) {
		fail(ctx, fasthttp.StatusNotFound, "no_such_consumer", fmt.Sprintf("there is no consumer %q", name))
		return "", nil, nil, false
	}
	return name, c, store, true
}

// changeable is consumer where keys can be made and changed.
func (s *Server) changeable(ctx *fasthttp.RequestCtx) (name string, c *config.Consumer, store *keys.Store, ok bool) {
	name, c, store, ok = s.consumer(ctx)
	if ok && store == nil {
		fail(ctx, fasthttp.StatusConflict, "no_state_dir",
			"keys made at run time are kept in state.dir, which is not set: set it, or write a key's hash under consumers."+name+".api_keys")
		return "", nil, nil, false
	}
	return name, c, store, ok
}

func (s *Server) listKeys(ctx *fasthttp.RequestCtx) {
	if name, c, _, ok := s.consumer(ctx); ok {
		reply(ctx, map[string]any{"consumer": name, "keys": s.viewKeys(name, c)})
	}
}

// keyRequest is the body of requests that make a key.
type keyRequest struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
	// TTL stands in for Expires: 90d.
	TTL     string   `json:"ttl"`
	CIDRs   []string `json:"cidrs"`
	Methods []string `json:"methods"`
	Paths   []string `json:"paths"`
}

// rotateRequest is the body of requests that have a key take the place of another.
type rotateRequest struct {
	// Overlap is how long the old key stays valid: 24h.
	Overlap string    `json:"overlap"`
	Expires time.Time `json:"expires"`
	TTL     string    `json:"ttl"`
}

const defaultOverlap = 24 * time.Hour

// body reads JSON, an empty body as {}; where it can not it answers.
func body(ctx *fasthttp.RequestCtx, v any, want string) bool {
	d := json.NewDecoder(bytes.NewReader(ctx.PostBody()))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", "send "+want+": "+err.Error())
		return false
	}
	return true
}

// end is when a key expires that is asked for with expires or ttl; where that is wrong it answers.
func (s *Server) end(ctx *fasthttp.RequestCtx, expires time.Time, ttl string) (time.Time, bool) {
	if ttl == "" {
		return expires, true
	}
	d, err := config.ParseDuration(ttl)
	switch {
	case err != nil:
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", "ttl: "+err.Error())
	case d <= 0:
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", "ttl: must be more than nothing; leave it out for a key that does not expire")
	case !expires.IsZero():
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", "send ttl or expires, not both")
	default:
		return s.now().UTC().Add(d).Truncate(time.Second), true
	}
	return time.Time{}, false
}

func (s *Server) createKey(ctx *fasthttp.RequestCtx) {
	name, c, store, ok := s.changeable(ctx)
	if !ok {
		return
	}
	if c == nil {
		fail(ctx, fasthttp.StatusConflict, "no_such_consumer", fmt.Sprintf("the consumer %q has left the configuration; its keys can only be listed and revoked", name))
		return
	}
	var req keyRequest
	if !body(ctx, &req, `{"name", "ttl" or "expires", "cidrs", "methods", "paths"}`) {
		return
	}
	expires, ok := s.end(ctx, req.Expires, req.TTL)
	if !ok {
		return
	}
	secret, k, err := store.Create(keys.Spec{
		Consumer: name, Tenant: c.Tenant, Name: req.Name, Expires: expires, CIDRs: req.CIDRs, Methods: req.Methods, Paths: req.Paths,
	})
	if err != nil {
		refuseKey(ctx, err)
		return
	}
	s.showNew(ctx, name, secret, k)
	changed(ctx, nil, s.viewKey(k))
}

func (s *Server) rotateKey(ctx *fasthttp.RequestCtx) {
	name, c, store, ok := s.changeable(ctx)
	if !ok || !s.made(ctx, name, c) {
		return
	}
	var req rotateRequest
	if !body(ctx, &req, `{"overlap", "ttl" or "expires"}`) {
		return
	}
	overlap := defaultOverlap
	if req.Overlap != "" {
		var err error
		if overlap, err = config.ParseDuration(req.Overlap); err != nil {
			fail(ctx, fasthttp.StatusBadRequest, "bad_request", "overlap: "+err.Error())
			return
		}
	}
	expires, ok := s.end(ctx, req.Expires, req.TTL)
	if !ok {
		return
	}
	before, ok := s.key(ctx, store, name, c)
	if !ok {
		return
	}
	if linkOf(ctx) != nil {
		// A link hands on what there is: no key beyond the end of the old one.
		if req.TTL != "" || !req.Expires.IsZero() {
			fail(ctx, fasthttp.StatusBadRequest, "bad_request", "a key that takes the place of another ends when that would have ended: leave ttl and expires out")
			return
		}
	}
	was, id := s.viewKey(before), before.ID
	secret, k, old, err := store.Rotate(name, id, overlap, expires)
	if err != nil {
		refuseKey(ctx, err)
		return
	}
	s.showNew(ctx, name, secret, k)
	changed(ctx, was, map[string]any{"replaced": s.viewKey(old), "by": s.viewKey(k)})
}

// showNew answers with a key, this once.
func (s *Server) showNew(ctx *fasthttp.RequestCtx, consumer, secret string, k *keys.Key) {
	write(ctx, fasthttp.StatusCreated, "application/json", newKeyView{consumer, secret, changedKeyView{s.viewKey(k), s.o.Gateway.KeysTold()}})
	if linkOf(ctx) != nil {
		return // that place is the operators'
	}
	ctx.Response.Header.Set(fasthttp.HeaderLocation, "/api/consumers/"+url.PathEscape(consumer)+"/keys/"+k.ID)
}

func (s *Server) showKey(ctx *fasthttp.RequestCtx) {
	name, c, _, ok := s.consumer(ctx)
	if !ok {
		return
	}
	id := pathValue(ctx, "id")
	for _, v := range s.viewKeys(name, c) {
		if v.ID == id {
			reply(ctx, v)
			return
		}
	}
	refuseKey(ctx, keys.ErrNotFound)
}

func (s *Server) revokeKey(ctx *fasthttp.RequestCtx) {
	name, c, store, ok := s.changeable(ctx)
	if !ok || !s.made(ctx, name, c) {
		return
	}
	before, ok := s.key(ctx, store, name, c)
	if !ok {
		return
	}
	was, id := s.viewKey(before), before.ID
	k, err := store.Revoke(name, id)
	if err != nil {
		refuseKey(ctx, err)
		return
	}
	reply(ctx, changedKeyView{s.viewKey(k), s.o.Gateway.KeysTold()})
	changed(ctx, was, s.viewKey(k))
}

// key returns the key that the path names. A key that was made for a consumer of the same name in another tenant is not this
// consumer's: a tenant does not get it.
func (s *Server) key(ctx *fasthttp.RequestCtx, store *keys.Store, name string, c *config.Consumer) (*keys.Key, bool) {
	id := pathValue(ctx, "id")
	k, err := store.Get(name, id)
	if err == nil && c != nil && k.Tenant != c.Tenant {
		err = keys.ErrNotFound
	}
	if err != nil {
		refuseKey(ctx, err)
		return nil, false
	}
	return k, true
}

// made tells whether the key that the path names was made at run time; where it stands in the configuration it answers.
func (s *Server) made(ctx *fasthttp.RequestCtx, name string, c *config.Consumer) bool {
	id := pathValue(ctx, "id")
	if c != nil && id != "" {
		for _, k := range c.APIKeys {
			if k.ID == id {
				fail(ctx, fasthttp.StatusConflict, "configured_key", fmt.Sprintf("the key %s stands in the configuration, under consumers.%s.api_keys; change it there", id, name))
				return false
			}
		}
	}
	return true
}

// refuseKey answers with what is wrong with a change of a key.
func refuseKey(ctx *fasthttp.RequestCtx, err error) {
	if list := wrongSettings(err); len(list) > 0 {
		var all []string
		for _, m := range list {
			all = append(all, m.Path+": "+m.Message)
		}
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", strings.Join(all, "; "), list...)
		return
	}
	switch {
	case errors.Is(err, keys.ErrNotFound):
		fail(ctx, fasthttp.StatusNotFound, "no_such_key", err.Error())
	case errors.Is(err, keys.ErrOver), errors.Is(err, keys.ErrReplaced), errors.Is(err, keys.ErrElsewhere), errors.Is(err, keys.ErrFull):
		fail(ctx, fasthttp.StatusConflict, "conflict", err.Error())
	default:
		fail(ctx, fasthttp.StatusInternalServerError, "not_written", inward(ctx, "the change could not be written", err.Error()))
	}
}

func wrongSettings(err error) (list []mistake) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = append(list, wrongSettings(e)...)
		}
		return list
	}
	var wrong *keys.SpecError
	if errors.As(err, &wrong) {
		list = append(list, mistake{Path: wrong.Setting, Message: wrong.Message})
	}
	return list
}
