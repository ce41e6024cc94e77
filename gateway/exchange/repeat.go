package exchange

import "github.com/valyala/fasthttp"

// Repeat returns a copy of x, from within a hook that has a request without a body before it, for a repetition that goes on
// behind that hook while the client of x has its answer. It shares nothing with x that ends with it, and has no client:
// nobody reads its response. done runs in its Close.
func (p *Pool) Repeat(x *Exchange, done func(*Exchange)) *Exchange {
	req, res := new(fasthttp.Request), new(fasthttp.Response)
	x.Request.Header.CopyTo(&req.Header)
	Undated(&res.Header)
	res.Header.DisableNormalizing()
	c := p.Get(req, res, done)
	for i := range x.Fields {
		f := &x.Fields[i]
		c.Fields = append(c.Fields, Field{Name: c.Copy(f.Name), Value: c.Copy(f.Value), Kind: f.Kind})
	}
	c.Path, c.Query, c.Host, c.Scheme, c.Protocol = c.Copy(x.Path), c.Copy(x.Query), c.Copy(x.Host), x.Scheme, x.Protocol
	c.ForwardedHost, c.ForwardedPort = c.Copy(x.ForwardedHost), c.Copy(x.ForwardedPort)
	c.ClientAddr, c.PeerAddr, c.TrustedPeer = x.ClientAddr, x.PeerAddr, x.TrustedPeer
	c.Listener, c.TLS, c.ConnID = x.Listener, x.TLS, x.ConnID
	c.Route, c.Member, c.MatchedPrefix, c.ParamNames = x.Route, x.Member, x.MatchedPrefix, x.ParamNames
	for i := range x.ParamNames {
		c.Params[i] = c.Copy(x.Params[i])
	}
	c.Identity, c.Tenant = x.Identity, x.Tenant
	c.Identity.Subject = c.Copy(x.Identity.Subject)
	c.RequestID = c.Copy(x.RequestID)
	for _, e := range x.ToBackend.list {
		e.Value = c.Copy(e.Value)
		c.ToBackend.list = append(c.ToBackend.list, e)
	}
	if x.UpstreamPath != nil {
		c.UpstreamPath = c.Copy(x.UpstreamPath)
	}
	c.UpstreamQuery, c.queryReplaced = c.Copy(x.UpstreamQuery), x.queryReplaced
	c.BodyLimit, c.APIVersion, c.CutFrom, c.CutTo = x.BodyLimit, x.APIVersion, x.CutFrom, x.CutTo
	c.Steps, c.First = x.Steps, x.Steps-1
	return c
}
