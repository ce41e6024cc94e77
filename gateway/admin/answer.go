package admin

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"

	"github.com/valyala/fasthttp"

	"sluice/config"
)

// problem is an error for the client (RFC 9457).
type problem struct {
	Type      string    `json:"type"`
	Title     string    `json:"title"`
	Status    int       `json:"status"`
	Detail    string    `json:"detail"`
	Instance  string    `json:"instance,omitempty"`
	RequestID string    `json:"request_id"`
	Errors    []mistake `json:"errors,omitempty"`
}

// mistake is one error in a configuration.
type mistake struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
}

// mistakes lists the single errors of a configuration that was refused; nil if err is none of those.
func mistakes(err error) []mistake {
	var all config.Errors
	if !errors.As(err, &all) {
		var one *config.Error
		if !errors.As(err, &one) {
			return nil
		}
		all = config.Errors{one}
	}
	list := make([]mistake, 0, len(all))
	for _, e := range all {
		list = append(list, mistake{e.Pos.File, e.Pos.Line, e.Pos.Column, e.Path, e.Message})
	}
	return list
}

func fail(ctx *fasthttp.RequestCtx, status int, reason, detail string, errs ...mistake) {
	write(ctx, status, "application/problem+json", problem{
		Type: "urn:sluice:" + reason, Title: fasthttp.StatusMessage(status), Status: status, Detail: detail,
		Instance: string(ctx.Path()), RequestID: requestID(ctx), Errors: errs,
	})
}

// requestID is the name by which a request is found in the operator log, given when it is first asked for.
func requestID(ctx *fasthttp.RequestCtx) string {
	id, ok := ctx.UserValue(requestKey).(string)
	if !ok {
		id = rand.Text()
		ctx.SetUserValue(requestKey, id)
	}
	return id
}

const requestKey = "request"

// inward is a message that names what is inside the gateway, files and addresses; who is no operator gets the outward one.
func inward(ctx *fasthttp.RequestCtx, outward, message string) string {
	if !operates(ctx) {
		return outward
	}
	return message
}

// operates tells an operator from who comes with a link or the token of a tenant.
func operates(ctx *fasthttp.RequestCtx) bool { return linkOf(ctx) == nil && tenantOf(ctx) == "" }

func reply(ctx *fasthttp.RequestCtx, v any) { write(ctx, fasthttp.StatusOK, "application/json", v) }

func write(ctx *fasthttp.RequestCtx, status int, contentType string, v any) {
	ctx.Response.ResetBody()
	ctx.SetStatusCode(status)
	ctx.SetContentType(contentType)
	e := json.NewEncoder(ctx)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		panic("BUG: " + err.Error())
	}
}

func isTooLarge(err error) bool { return errors.Is(err, fasthttp.ErrBodyTooLarge) }

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func isSmallBuffer(err error) bool {
	var small *fasthttp.ErrSmallBuffer
	return errors.As(err, &small)
}
