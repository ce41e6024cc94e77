package admin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/revocation"
)

// revocationRequest is the body of requests that revoke tokens: one of the first three.
type revocationRequest struct {
	Token   string `json:"token"`
	JTI     string `json:"jti"`
	Subject string `json:"subject"`
	// Issuer bounds a jti or a subject to tokens with this iss.
	Issuer string `json:"issuer"`
	// Until is when they have all expired, TTL stands in for it: 90d.
	Until time.Time `json:"until"`
	TTL   string    `json:"ttl"`
}

// revocationView is what is shown of a revocation. Of a token it is the beginning of its hash.
type revocationView struct {
	ID      string    `json:"id"`
	SHA256  string    `json:"sha256,omitempty"`
	JTI     string    `json:"jti,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Issuer  string    `json:"issuer,omitempty"`
	Before  time.Time `json:"before,omitzero"`
	Until   time.Time `json:"until"`
}

func viewRevocation(e *revocation.Entry) revocationView {
	v := revocationView{ID: e.ID, Issuer: e.Issuer, Before: e.Before, Until: e.Until}
	switch e.Kind {
	case revocation.Token:
		v.SHA256 = e.Value[:16]
	case revocation.JTI:
		v.JTI = e.Value
	case revocation.Subject:
		v.Subject = e.Value
	}
	return v
}

// slackOfExpiry is how long after its exp a token is still kept out: longer than clocks differ and leeways are.
const slackOfExpiry = time.Hour

// revoked is the list in force; where there is none it answers.
func (s *Server) revoked(ctx *fasthttp.RequestCtx) *revocation.List {
	list := s.o.Gateway.Revoked()
	if list == nil {
		fail(ctx, fasthttp.StatusServiceUnavailable, "no_configuration", "no configuration is in force yet")
	}
	return list
}

func (s *Server) listRevocations(ctx *fasthttp.RequestCtx) {
	list := s.revoked(ctx)
	if list == nil {
		return
	}
	all := list.Entries()
	views := make([]revocationView, len(all))
	for i := range all {
		views[i] = viewRevocation(&all[i])
	}
	reply(ctx, map[string]any{"revocations": views})
}

func (s *Server) revoke(ctx *fasthttp.RequestCtx) {
	var req revocationRequest
	if !body(ctx, &req, `{"token"} or {"jti", "issuer"} or {"subject", "issuer"}, with "ttl" or "until"`) {
		return
	}
	e, err := s.entry(&req)
	if err != nil {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", err.Error())
		return
	}
	list := s.revoked(ctx)
	if list == nil {
		return
	}
	made, err := list.Revoke(*e)
	var wrong *revocation.SpecError
	switch {
	case errors.As(err, &wrong):
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", err.Error())
		return
	case errors.Is(err, revocation.ErrFull):
		fail(ctx, fasthttp.StatusConflict, "too_many_revocations", err.Error())
		return
	case err != nil:
		s.log.Error("a revocation is in force and can not be kept", "error", err.Error())
		fail(ctx, fasthttp.StatusInternalServerError, "not_kept", inward(ctx, "it is in force here, and could not be kept: until that works, which is tried again, it ends with this process", "it is in force here, and could not be kept; until that works, which is tried again, it ends with this process: "+err.Error()))
		changed(ctx, nil, viewRevocation(&made))
		return
	}
	view := viewRevocation(&made)
	write(ctx, fasthttp.StatusCreated, "application/json", view)
	changed(ctx, nil, view)
}

// entry is what a request asks for.
func (s *Server) entry(req *revocationRequest) (*revocation.Entry, error) {
	now := s.now().UTC()
	e := &revocation.Entry{Issuer: req.Issuer, Until: req.Until}
	given := 0
	for kind, value := range map[revocation.Kind]string{revocation.Token: req.Token, revocation.JTI: req.JTI, revocation.Subject: req.Subject} {
		if value != "" {
			e.Kind, e.Value = kind, value
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("say what is revoked: a token, a jti, or all that was issued for a subject until now")
	}
	if req.TTL != "" {
		d, err := config.ParseDuration(req.TTL)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ttl: %w", err)
		case !req.Until.IsZero():
			return nil, errors.New("send ttl or until, not both")
		}
		e.Until = now.Add(d).Truncate(time.Second)
	}
	switch e.Kind {
	case revocation.Token:
		if e.Issuer != "" {
			return nil, errors.New("a token is one, whoever issued it: leave out issuer")
		}
		if e.Until.IsZero() {
			e.Until = expiryOf(req.Token)
		}
		e.Value = revocation.OfToken([]byte(req.Token))
	case revocation.Subject:
		e.Before = now
	}
	if e.Until.IsZero() {
		return nil, errors.New("say with ttl or until when all such tokens have expired: from then on they would be taken again")
	}
	return e, nil
}

// expiryOf is when a JWT is over by what it says of itself, zero where it does not say. To end a revocation it is good enough: one who
// writes another time there has made another token.
func expiryOf(token string) (until time.Time) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return until
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp *float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Exp == nil || math.Abs(*claims.Exp) > 1e11 {
		return until
	}
	return time.Unix(int64(*claims.Exp), 0).Add(slackOfExpiry).UTC()
}
