package kong

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// messages are what Kong says of what the gateway refuses, by the reason.
var messages = map[string]override{
	"no_route":               {404, "no Route matched with those values"},
	"unusable_path":          {400, "Bad request"},
	"address_not_allowed":    {403, ""}, // made of the address
	"user_agent_not_allowed": {403, "Forbidden"},
	"forbidden":              {403, "You cannot consume this service"},
	"rate_limited":           {429, "API rate limit exceeded"},
	"response_rate_limited":  {429, ""}, // made of what is limited
	"body_too_large":         {413, "Request size limit exceeded"},
	"no_healthy_endpoint":    {503, "failure to get a peer from the ring-balancer"},
	"https_required":         {426, "Please use HTTPS protocol"},
	"http2_required":         {426, "Please use HTTP2 protocol"},
	"no_call":                {415, "Non-gRPC request matched gRPC route"},
}

// byStatus is what Kong says of a status.
var byStatus = map[int]string{
	400: "Bad request", 401: "Unauthorized", 402: "Payment required", 403: "Forbidden", 404: "Not found", 405: "Method not allowed", 406: "Not acceptable",
	408: "Request timeout", 409: "Conflict", 411: "Length required", 412: "Precondition failed", 413: "Payload too large", 414: "URI too long",
	415: "Unsupported media type", 417: "Expectation failed", 429: "Too many requests", 431: "Request header or cookie too large", 494: "Request header or cookie too large",
	500: "An unexpected error occurred", 501: "Not implemented", 502: "An invalid response was received from the upstream server",
	503: "The upstream server is currently unavailable", 504: "The upstream server is timing out", 505: "HTTP version not supported",
}

// tokens are what is said of a refused token: a message, or where it has a colon a claim with what is wrong with it.
var tokens = map[string]override{
	"malformed":       {401, "Bad token; invalid JSON"},
	"wrong_algorithm": {401, "Invalid algorithm"},
	"unknown_key":     {401, "No credentials found for given 'iss'"},
	"no_issuer":       {401, "No mandatory 'iss' in claims"},
	"bad_signature":   {401, "Invalid signature"},
}

// claims are the bodies that say what is wrong with a claim.
var claims = map[string][]byte{
	"expired":       []byte(`{"exp":"token expired"}`),
	"not_yet_valid": []byte(`{"nbf":"token not valid yet"}`),
	"missing_claim": []byte(`{"exp":"must be a number"}`),
	"too_long":      []byte(`{"exp":"exceeds maximum allowed expiration"}`),
}

// signatures are what hmac-auth says.
var signatures = map[string]string{
	"bad_signature": "HMAC signature does not match",
	"expired":       "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication",
	"not_yet_valid": "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication",
}

// render puts a refusal into the response as Kong would. It is an exchange's Problem.
func render(x *exchange.Exchange, r *exchange.Reject) {
	st := states.Of(x)
	said, known := messages[r.Reason]
	status, message := r.Status, said.message
	if known {
		status = said.status
	}
	var body []byte
	auth := st.refused
	if auth == "" && st.route != nil {
		auth = st.route.auth
	}
	switch r.Reason {
	case "response_rate_exceeded":
		// What the service's answer used up is refused without a word.
		x.Response.SetStatusCode(fasthttp.StatusTooManyRequests)
		return
	case "response_rate_limited":
		message = r.Detail
	case "body_too_large":
		if exchange.EqualFold(x.RequestHeader("Expect"), "100-continue") {
			status = fasthttp.StatusExpectationFailed
		}
	case "credential_missing":
		message = "Unauthorized"
		if auth == "api_key" {
			message = "No API key found in request"
		}
	case "credential_invalid":
		message = "Unauthorized"
		switch {
		case st.route == nil:
		case auth == "jwt":
			if t, ok := tokens[x.AuthFailure]; ok {
				message = t.message
			}
			body = claims[x.AuthFailure]
		case auth == "hmac_auth":
			message = "HMAC signature cannot be verified"
			if m, ok := signatures[x.AuthFailure]; ok {
				message = m
			}
		case auth == "api_key" && x.AuthFailure == "malformed":
			message = "Duplicate API key found"
		}
	case "forbidden":
		if !x.Identity.Authenticated && x.Identity.Consumer == nil {
			status, message = fasthttp.StatusUnauthorized, "Unauthorized"
		}
	}
	text := x.Scratch()
	if r.Reason == "address_not_allowed" {
		text = append(text, "IP address not allowed: "...)
		text = x.ClientAddr.Unmap().AppendTo(text)
	} else {
		text = append(text, message...)
	}
	if st.route != nil {
		if o, ok := st.route.errors[r.Reason]; ok {
			if o.status != 0 {
				status = o.status
			}
			if o.message != "" {
				text = append(text[:0], o.message...)
			}
		}
	}
	if len(text) == 0 {
		said, ok := byStatus[status]
		if !ok {
			said = r.Detail
		}
		text = append(text, said...)
	}
	text = x.Keep(text)

	h := &x.Response.Header
	x.Response.SetStatusCode(status)
	for i := range r.Headers {
		if e := &r.Headers[i]; e.Name != "WWW-Authenticate" && e.Name != "Retry-After" {
			h.AddBytesV(e.Name, e.Value)
		}
	}
	if status == fasthttp.StatusUnauthorized && st.route != nil {
		if challenge := st.route.appendChallenge(x.Scratch(), auth, r.Reason == "credential_invalid"); len(challenge) > 0 {
			h.SetBytesV("WWW-Authenticate", x.Keep(challenge))
		}
	}
	if body != nil {
		h.SetContentTypeBytes(forms[asJSON].contentType)
		x.Response.SetBodyRaw(body)
		return
	}
	f := &forms[asJSON]
	if auth != "jwt" || r.Reason != "credential_missing" && r.Reason != "credential_invalid" { // which writes JSON whatever Accept says
		f = &forms[formOf(x.RequestHeader("Accept"))]
	}
	h.SetContentTypeBytes(f.contentType)
	out := append(x.Scratch(), f.before...)
	out = f.escape(out, text)
	out = append(out, f.between...)
	out = append(out, st.id...)
	x.Response.SetBodyRaw(x.Keep(append(out, f.after...)))
}

// form is a way to write an error.
type form struct {
	contentType            []byte
	before, between, after string
	escape                 func(dst, text []byte) []byte
}

const (
	asJSON = iota
	asHTML
	asPlain
	asXML
)

var forms = [...]form{
	asJSON: {[]byte("application/json; charset=utf-8"), "{\n  \"message\":", ",\n  \"request_id\":\"", "\"\n}", exchange.AppendJSONString},
	asHTML: {[]byte("text/html; charset=utf-8"), "<!doctype html>\n<html>\n<head><meta charset=\"utf-8\"><title>Error</title></head>\n<body>\n<h1>Error</h1>\n<p>", ".</p>\n<p>request_id: ", "</p>\n</body>\n</html>\n", escapeMarkup},
	asPlain: {[]byte("text/plain; charset=utf-8"), "", "\nrequest_id: ", "\n", func(dst, text []byte) []byte {
		return append(dst, text...)
	}},
	asXML: {[]byte("application/xml; charset=utf-8"), "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>", "</message>\n  <requestid>", "</requestid>\n</error>", escapeMarkup},
}

func escapeMarkup(dst, text []byte) []byte {
	for _, c := range text {
		switch c {
		case '<':
			dst = append(dst, "&lt;"...)
		case '>':
			dst = append(dst, "&gt;"...)
		case '&':
			dst = append(dst, "&amp;"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// formOf chooses by Accept, JSON where nothing else is preferred.
func formOf(accept []byte) int {
	best, weight := asJSON, 0
	for len(accept) > 0 {
		var one []byte
		one, accept, _ = bytes.Cut(accept, comma)
		kind, parameters, _ := bytes.Cut(one, semicolon)
		f := -1
		switch kind = bytes.TrimSpace(kind); {
		case exchange.EqualFold(kind, "application/json"), exchange.EqualFold(kind, "*/*"), exchange.EqualFold(kind, "application/*"):
			f = asJSON
		case exchange.EqualFold(kind, "text/html"), exchange.EqualFold(kind, "text/*"):
			f = asHTML
		case exchange.EqualFold(kind, "text/plain"):
			f = asPlain
		case exchange.EqualFold(kind, "application/xml"), exchange.EqualFold(kind, "text/xml"):
			f = asXML
		}
		if f < 0 {
			continue
		}
		if q := quality(parameters); q > weight {
			best, weight = f, q
		}
	}
	return best
}

var comma, semicolon = []byte(","), []byte(";")

// quality reads q of an element of Accept, in thousandths.
func quality(parameters []byte) int {
	for len(parameters) > 0 {
		var one []byte
		one, parameters, _ = bytes.Cut(parameters, semicolon)
		one = bytes.TrimSpace(one)
		if len(one) < 3 || one[0]|0x20 != 'q' || one[1] != '=' {
			continue
		}
		q, scale := 0, 1000
		for _, c := range one[2:] {
			if c >= '0' && c <= '9' && scale > 0 {
				q += int(c-'0') * scale
				scale /= 10
			}
		}
		return q
	}
	return 1000
}
