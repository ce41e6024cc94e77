package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/upstream"
)

// drainRequest takes an endpoint out of the choice, or back in.
type drainRequest struct {
	Endpoint string `json:"endpoint"`
	Draining *bool  `json:"draining"`
	// Force takes out the last one, too.
	Force bool `json:"force"`
}

func (s *Server) drainEndpoint(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	name := pathValue(ctx, "name")
	services := current.Services()
	service := services[name]
	if service == nil {
		fail(ctx, fasthttp.StatusNotFound, "no_such_service", fmt.Sprintf("there is no service %q%s", name, config.Hint(name, slices.Sorted(maps.Keys(services)))))
		return
	}
	var req drainRequest
	d := json.NewDecoder(bytes.NewReader(ctx.PostBody()))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil || req.Endpoint == "" || req.Draining == nil {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", `send {"endpoint": "http://host:port", "draining": true}, as GET /api/services shows endpoints`)
		return
	}
	now := s.o.Gateway.Now()
	err := service.Drain(req.Endpoint, *req.Draining, req.Force, now)
	switch {
	case errors.Is(err, upstream.ErrNoSuchEndpoint):
		var known []string
		for _, e := range service.Endpoints(now) {
			known = append(known, e.Endpoint)
		}
		fail(ctx, fasthttp.StatusNotFound, "no_such_endpoint", fmt.Sprintf("the service %q has no endpoint %q%s", name, req.Endpoint, config.Hint(req.Endpoint, known)))
	case errors.Is(err, upstream.ErrLastEndpoint):
		fail(ctx, fasthttp.StatusConflict, "last_endpoint", "it is the last endpoint of the service that takes requests, which would all get 503; send \"force\": true to drain it all the same")
	case err != nil:
		fail(ctx, fasthttp.StatusInternalServerError, "internal", err.Error())
	default:
		changed(ctx, nil, req)
		s.log.Info("endpoint", "service", name, "endpoint", req.Endpoint, "draining", *req.Draining)
		reply(ctx, map[string]any{"service": name, "endpoints": service.Endpoints(now)})
	}
}
