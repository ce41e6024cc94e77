package admin

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/admin/dashboard"
	"sluice/gateway/policy"
)

// developerAPI begins the paths that a signed link opens, and nothing else does: not the admin token either, which is nobody's
// page. A link opens no other path.
const developerAPI = dashboard.DeveloperPath + "api/"

const linkKey = "link"

// linkOf is the link that a request carries to the developer's API, nil everywhere else.
func linkOf(ctx *fasthttp.RequestCtx) *link {
	l, _ := ctx.UserValue(linkKey).(*link)
	return l
}

// wantsLink tells whether a path, as the router takes it, is one of a developer's API.
func wantsLink(path []byte) bool { return bytes.HasPrefix(path, []byte(developerAPI)) }

// admitLink lets in who carries a link, as its consumer. It is good as long as the configuration has that consumer in the
// same tenant.
func (s *Server) admitLink(ctx *fasthttp.RequestCtx) bool {
	c := s.o.Gateway.Config()
	if c == nil {
		return false
	}
	l := openLink(c.State.Dir, bearer(&ctx.Request.Header), s.now())
	if l == nil || c.Consumers[l.Consumer] == nil || c.Consumers[l.Consumer].Tenant != l.Tenant {
		return false
	}
	ctx.SetUserValue(linkKey, l)
	ctx.SetUserValue(tenantKey, l.Tenant)
	ctx.SetUserValue(actorKey, "link:"+l.ID)
	return true
}

// ofLink has a handler see the link's consumer, whatever the path and the query say.
func ofLink(h fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		l := linkOf(ctx)
		if l == nil {
			refuseLink(ctx)
			return
		}
		if !ctx.IsGet() && !ctx.IsHead() && !l.Change {
			fail(ctx, fasthttp.StatusForbidden, "read_only_link", "this link shows keys and changes none; ask for one that may")
			return
		}
		ctx.SetUserValue("name", url.PathEscape(l.Consumer)) // as the router would
		h(ctx)
	}
}

// closedToLinks refuses links where none belongs.
func closedToLinks(h fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if linkOf(ctx) != nil {
			refuseLink(ctx)
			return
		}
		h(ctx)
	}
}

func refuseLink(ctx *fasthttp.RequestCtx) {
	ctx.Response.Header.Add(fasthttp.HeaderWWWAuthenticate, `Bearer realm="sluice developer"`)
	fail(ctx, fasthttp.StatusUnauthorized, "link_required", "the link has expired, was revoked, or is not whole: ask for a new one")
}

// linkRequest is the body of requests that make a link.
type linkRequest struct {
	Expires time.Time `json:"expires"`
	// TTL stands in for Expires: 24h.
	TTL string `json:"ttl"`
	// MayChange lets whoever has the link rotate and revoke the consumer's keys.
	MayChange bool `json:"may_change"`
}

// linkView is a link without what opens it.
type linkView struct {
	ID        string    `json:"id"`
	Consumer  string    `json:"consumer"`
	Expires   time.Time `json:"expires"`
	MayChange bool      `json:"may_change"`
}

func (s *Server) createLink(ctx *fasthttp.RequestCtx) {
	name, c, _, ok := s.changeable(ctx)
	if !ok {
		return
	}
	if c == nil {
		fail(ctx, fasthttp.StatusConflict, "no_such_consumer", fmt.Sprintf("the consumer %q has left the configuration; it has no page", name))
		return
	}
	var req linkRequest
	if !body(ctx, &req, `{"ttl" or "expires", "may_change"}`) {
		return
	}
	expires, ok := s.end(ctx, req.Expires, req.TTL)
	if !ok {
		return
	}
	now := s.now().UTC().Truncate(time.Second)
	if expires.IsZero() {
		expires = now.Add(defaultLinkTime)
	}
	if expires = expires.UTC().Truncate(time.Second); !expires.After(now) || expires.After(now.Add(maxLinkTime)) {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", "a link is good for some time, up to 30d")
		return
	}
	l := &link{ID: "link_" + strings.ToLower(rand.Text()[:16]), Consumer: name, Tenant: c.Tenant, Expires: expires.Unix(), Change: req.MayChange}
	token, err := s.signLink(s.o.Gateway.Config().State.Dir, l)
	if err != nil {
		fail(ctx, fasthttp.StatusInternalServerError, "not_signed", "cannot sign a link: "+err.Error())
		return
	}
	v := linkView{l.ID, name, expires, req.MayChange}
	// What stands behind # is sent to nobody: it is in no log and no Referer.
	write(ctx, fasthttp.StatusCreated, "application/json", struct {
		Path string `json:"path"`
		linkView
	}{dashboard.DeveloperPath + "#" + token, v})
	changed(ctx, nil, v)
}

// endLinks replaces the key that links are signed with.
func (s *Server) endLinks(ctx *fasthttp.RequestCtx) {
	c := s.o.Gateway.Config()
	if c == nil || c.State.Dir == "" {
		fail(ctx, fasthttp.StatusConflict, "no_state_dir", "there are no links: they are signed with a key in state.dir, which is not set")
		return
	}
	s.linking.Lock()
	_, err := newLinkKey(c.State.Dir)
	s.linking.Unlock()
	if err != nil {
		fail(ctx, fasthttp.StatusInternalServerError, "not_written", "cannot replace the key that links are signed with: "+err.Error())
		return
	}
	ctx.SetStatusCode(fasthttp.StatusNoContent)
	changed(ctx, nil, map[string]any{"links": "ended"})
}

// developerView is what a consumer sees of itself.
type developerView struct {
	Consumer string `json:"consumer"`
	Plan     string `json:"plan,omitempty"`
	// Until is when the link ends; MayChange tells that it lets keys be rotated and revoked.
	Until     time.Time `json:"until"`
	MayChange bool      `json:"may_change"`
	Keys      []keyView `json:"keys"`
	// Limits are those that count what the consumer does, used or not; MoreLimits tells that there are others.
	Limits     []policy.LimitEntry `json:"limits"`
	MoreLimits bool                `json:"more_limits"`
}

func (s *Server) showDeveloper(ctx *fasthttp.RequestCtx) {
	name, c, _, ok := s.consumer(ctx)
	if !ok {
		return
	}
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	limits, err := current.Limits(name, defaultLimits+1)
	if err != nil {
		fail(ctx, fasthttp.StatusInternalServerError, "limits_unknown", "cannot tell the limits of "+name+": "+err.Error())
		return
	}
	l := linkOf(ctx)
	v := developerView{
		Consumer: name, Until: time.Unix(l.Expires, 0).UTC(), MayChange: l.Change, Keys: s.viewKeys(name, c),
		Limits: append([]policy.LimitEntry{}, limits[:min(len(limits), defaultLimits)]...), MoreLimits: len(limits) > defaultLimits,
	}
	if c != nil {
		v.Plan = c.Plan
	}
	reply(ctx, v)
}
