package policy

import (
	"reflect"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
)

// Step is one policy of a program.
type Step struct {
	Name  string
	Scope string
	Taker string
	Hooks Hooks

	// Block is what the hooks were built from, Settings the type it decodes into; for explanations.
	Block    *config.Block
	Settings reflect.Type
}

// Program is the policies of one route in the order in which they run. It is
// immutable. A consumer with policies of its own gets a program that equals
// the route's up to the end of the stage Authenticate.
type Program struct {
	steps []Step
	// steps[:auth] run before authentication, steps[auth:open] are it.
	auth, open int
	// steps[:preface] are those of the stages Observe and Edge.
	preface   int
	anonymous *exchange.Consumer
	missing   *exchange.Reject
	all       bool // every policy of the stage Authenticate has to succeed
	// The hooks that there are, in the order in which they run: entering up to
	// authentication, passing behind it.
	entering, passing []hook
	credentials       []func(*exchange.Exchange) error
	ahead             []hook
	response          []hook
	done              []finisher
	// readsStored: a response hook has to do with answers of the cache too.
	readsStored bool
}

// hook is a hook of steps[step]. Hooks lie side by side, where steps are far apart in memory.
type hook struct {
	step int
	run  func(*exchange.Exchange) error
}

// finisher is a Done hook.
type finisher struct {
	step int
	run  func(*exchange.Exchange)
}

// missing refuses a request without a credential where no policy says how to bring one.
var missing = exchange.NewReject(fasthttp.StatusUnauthorized, "credential_missing", "authentication is required")

// NewProgram puts the steps into the order of policies.
func NewProgram(steps []Step) *Program { return NewProgramIn(Order, steps) }

// NewProgramIn puts the steps into another order. They are the program's from then on.
func NewProgramIn(order []Place, steps []Step) *Program {
	slices.SortStableFunc(steps, func(a, b Step) int { return PlaceIn(order, a.Name) - PlaceIn(order, b.Name) })
	p := &Program{steps: steps, auth: len(steps), open: len(steps), missing: missing}
	var challenges []exchange.HeaderEdit
	var requests []hook
	for i := range steps {
		h := &steps[i].Hooks
		if h.Done != nil {
			p.done = append(p.done, finisher{i, h.Done})
		}
		if h.Response != nil {
			p.response = append(p.response, hook{i, h.Response})
			p.readsStored = p.readsStored || !h.OnlyFetched
		}
		if h.Ahead != nil {
			p.ahead = append(p.ahead, hook{i, h.Ahead})
		}
		stage := order[PlaceIn(order, steps[i].Name)].Stage
		if h.Request != nil {
			requests = append(requests, hook{i, h.Request})
		}
		if stage <= Edge {
			p.preface = i + 1
		}
		if stage >= Authenticate {
			p.auth = min(p.auth, i)
		}
		if stage > Authenticate {
			p.open = min(p.open, i)
		}
		if stage != Authenticate {
			continue
		}
		if h.Anonymous != nil && p.anonymous == nil {
			p.anonymous = h.Anonymous
		}
		if h.Challenge != "" {
			challenges = append(challenges, exchange.HeaderEdit{Name: "WWW-Authenticate", Value: []byte(h.Challenge), Op: exchange.EditAdd})
		}
	}
	entering := 0
	for entering < len(requests) && requests[entering].step < p.open {
		entering++
	}
	p.entering, p.passing = requests[:entering], requests[entering:]
	for i := p.auth; i < p.open; i++ {
		p.credentials = append(p.credentials, steps[i].Hooks.Authenticate)
	}
	slices.Reverse(p.response)
	if len(challenges) > 0 {
		p.missing = exchange.NewReject(missing.Status, missing.Reason, missing.Detail, challenges...)
	}
	return p
}

// All has every policy of the stage Authenticate verify a credential, where else any one of them is enough. Before the program is used.
func (p *Program) All() *Program {
	p.all = true
	return p
}

// Steps lists the policies in order; for explain. It is borrowed.
func (p *Program) Steps() []Step { return p.steps }

// Has reports whether a policy is in the program.
func (p *Program) Has(name string) bool {
	return slices.ContainsFunc(p.steps, func(s Step) bool { return s.Name == name })
}

// Enter runs the request hooks up to and including authentication.
func (p *Program) Enter(x *exchange.Exchange) error {
	if p.open == 0 {
		return nil
	}
	return p.enter(x)
}

func (p *Program) enter(x *exchange.Exchange) error {
	if err := run(x, p.entering); err != nil {
		return err
	}
	x.Steps = p.open
	if len(p.credentials) == 0 {
		return nil
	}
	return p.authenticate(x)
}

// Preface runs the request hooks of the stages Observe and Edge: for a request
// that is refused before all others have their say.
func (p *Program) Preface(x *exchange.Exchange) error {
	for _, h := range p.entering {
		if h.step >= p.preface {
			break
		}
		x.Steps = h.step + 1
		if err := h.run(x); err != nil {
			return err
		}
	}
	x.Steps = p.preface
	return nil
}

// run runs hooks until one ends the request.
func run(x *exchange.Exchange, hooks []hook) error {
	for i := range hooks {
		x.Steps = hooks[i].step + 1
		if err := hooks[i].run(x); err != nil {
			return err
		}
	}
	return nil
}

// authenticate tries each kind of credential. The first that is verified is
// enough. Otherwise the anonymous consumer is taken where there is one, then a
// credential that was refused outweighs those that are missing.
func (p *Program) authenticate(x *exchange.Exchange) error {
	if p.all {
		return p.authenticateAll(x)
	}
	var refused error
	for _, verify := range p.credentials {
		err := verify(x)
		if err == nil {
			x.AuthFailure = ""
			return nil
		}
		if err == exchange.ErrBodyLater {
			return err
		}
		if refused == nil && err != exchange.ErrNoCredential {
			refused = err
		}
		x.Identity = exchange.Identity{}
	}
	if p.anonymous != nil {
		x.Identity.Consumer = p.anonymous
		return nil
	}
	if refused != nil {
		return refused
	}
	x.AuthFailure = "missing"
	return p.missing
}

// authenticateAll wants each kind of credential. The last one says who calls.
func (p *Program) authenticateAll(x *exchange.Exchange) error {
	for _, verify := range p.credentials {
		x.Identity = exchange.Identity{}
		switch err := verify(x); err {
		case nil:
		case exchange.ErrBodyLater:
			return err
		case exchange.ErrNoCredential:
			x.Identity, x.AuthFailure = exchange.Identity{}, "missing"
			return p.missing
		default:
			x.Identity = exchange.Identity{}
			return err
		}
	}
	x.AuthFailure = ""
	return nil
}

// Continue runs the request hooks after authentication.
func (p *Program) Continue(x *exchange.Exchange) error {
	if p.open == len(p.steps) && len(p.ahead) == 0 {
		return nil
	}
	return p.proceed(x)
}

func (p *Program) proceed(x *exchange.Exchange) error {
	for i := range p.ahead {
		if err := p.ahead[i].run(x); err != nil {
			return err
		}
	}
	return p.pass(x, p.passing)
}

func (p *Program) pass(x *exchange.Exchange, hooks []hook) error {
	if err := run(x, hooks); err != nil {
		return err
	}
	x.Steps = len(p.steps)
	return nil
}

// Reenter goes on with an exchange that a hook has paused, if that was before
// Continue; if not, entered is true and Resume goes on.
func (p *Program) Reenter(x *exchange.Exchange) (entered bool, err error) {
	if x.Steps > p.open {
		return true, nil
	}
	return false, p.authenticate(x)
}

// Behind runs the request hooks behind the last one that was reached.
func (p *Program) Behind(x *exchange.Exchange) error { return p.pass(x, p.from(x.Steps)) }

// Resume goes on with the hook that has paused the exchange in Continue.
func (p *Program) Resume(x *exchange.Exchange) error { return p.pass(x, p.from(x.Steps-1)) }

// from are the hooks of a step behind authentication and of all that follow.
func (p *Program) from(step int) []hook {
	i := 0
	for i < len(p.passing) && p.passing[i].step < step {
		i++
	}
	return p.passing[i:]
}

// ReadsResponse reports whether a response hook may look at an answer of this
// maker, or change it.
func (p *Program) ReadsResponse(a exchange.Answer) bool {
	if a == exchange.Stored {
		return p.readsStored
	}
	return len(p.response) > 0
}

// Response runs the response hooks of the steps that were reached, in reverse.
// An error becomes the answer; hooks further out see it as such.
func (p *Program) Response(x *exchange.Exchange) {
	if len(p.response) > 0 {
		p.respond(x)
	}
}

func (p *Program) respond(x *exchange.Exchange) {
	for i := range p.response {
		if h := &p.response[i]; h.step < x.Steps && h.step >= x.First {
			if err := h.run(x); err != nil {
				x.Render(err)
			}
		}
	}
}

// Done runs the done hooks of the steps that were reached.
func (p *Program) Done(x *exchange.Exchange) {
	if len(p.done) > 0 {
		p.finish(x)
	}
}

func (p *Program) finish(x *exchange.Exchange) {
	for i := range p.done {
		if h := &p.done[i]; h.step < x.Steps && h.step >= x.First {
			h.run(x)
		}
	}
}
