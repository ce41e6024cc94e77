package admin

import (
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/snapshot"
)

// reloadView is one attempt to put a configuration in force.
type reloadView struct {
	At         time.Time `json:"at"`
	Result     string    `json:"result"` // success or failure
	Generation uint64    `json:"generation,omitempty"`
	Error      string    `json:"error,omitempty"`
	// Errors are the mistakes of a configuration that was refused.
	Errors []mistake `json:"errors,omitempty"`
	// Compared tells whether the differences to the configuration before are known.
	Compared    bool                  `json:"compared"`
	Differences []snapshot.Difference `json:"differences"`
	// Omitted is how many differences were too many to keep.
	Omitted int `json:"omitted,omitempty"`
}

// listReloads shows the last reloads, the latest first, and what each has changed for requests.
func (s *Server) listReloads(ctx *fasthttp.RequestCtx) {
	views := []reloadView{}
	for _, r := range s.o.Gateway.Reloads() {
		v := reloadView{At: r.At.UTC(), Result: "success", Generation: r.Generation, Compared: r.Compared, Differences: r.Differences, Omitted: r.Omitted}
		if v.Differences == nil {
			v.Differences = []snapshot.Difference{}
		}
		if r.Err != nil {
			v.Result, v.Error, v.Errors = "failure", r.Err.Error(), mistakes(r.Err)
		}
		views = append(views, v)
	}
	reply(ctx, map[string]any{"reloads": views})
}
