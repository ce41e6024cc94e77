package authorize

import (
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// maxCost bounds what one evaluation may cost, in CEL's units: about one a step, and one for ten bytes of text that are looked at.
const maxCost = 50_000

// What an expression can name. Each is a variable of its own, so that only what an expression names is made for a request: an
// evaluation costs five allocations and one or two for each of these, and a claim that is no text what reading its JSON does.
const (
	nameMethod   = "request.method"
	namePath     = "request.path"
	nameHost     = "request.host"
	nameScheme   = "request.scheme"
	nameQuery    = "request.query"
	nameHeaders  = "request.headers"
	nameClaims   = "claims"
	nameConsumer = "consumer.name"
	nameGroups   = "consumer.groups"
	nameClientIP = "client_ip"
)

// expression is a compiled condition. It is immutable and safe for concurrent use.
type expression struct {
	program cel.Program
	varies  []string
	// aboutCaller: it looks at claims or consumer.
	aboutCaller bool
}

func newEnv() (*cel.Env, error) {
	texts := cel.MapType(cel.StringType, cel.StringType)
	return cel.NewEnv(
		cel.Variable(nameMethod, cel.StringType),
		cel.Variable(namePath, cel.StringType),
		cel.Variable(nameHost, cel.StringType),
		cel.Variable(nameScheme, cel.StringType),
		cel.Variable(nameQuery, texts),
		cel.Variable(nameHeaders, texts),
		cel.Variable(nameClaims, cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable(nameConsumer, cel.StringType),
		cel.Variable(nameGroups, cel.ListType(cel.StringType)),
		cel.Variable(nameClientIP, cel.StringType),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		ext.Strings(),
		ext.Network(),
	)
}

// compile checks an expression as far as that can be done without a request.
func compile(w *policy.World, text string) (*expression, error) {
	env, err := policy.Once(w, "authorize/environment", newEnv)
	if err != nil {
		return nil, err
	}
	checked, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		// The whole report has the source in it, over several lines; the first complaint is the one that counts.
		first := issues.Errors()[0]
		return nil, policy.Wrong("when", "%s (line %d, column %d of the expression)", first.Message, first.Location.Line(), first.Location.Column()+1)
	}
	switch kind := checked.OutputType(); {
	case kind.Kind() == types.DynKind:
		return nil, policy.Wrong("when", "may give anything and not only true or false; compare it, as in claims.admin == true")
	case kind.Kind() != types.BoolKind:
		return nil, policy.Wrong("when", "gives a %s and not true or false", kind)
	}
	e := &expression{}
	if e.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost)); err != nil {
		return nil, policy.Wrong("when", "%v", err)
	}
	e.read(checked.NativeRep())
	return e, nil
}

// read finds what the expression looks at.
func (e *expression) read(tree *ast.AST) {
	note := func(variable, member string) {
		switch variable {
		case nameHeaders:
			e.varies = append(e.varies, orWhole("header:", member, nameHeaders))
		case nameClaims:
			e.aboutCaller = true
			e.varies = append(e.varies, orWhole("claim:", member, nameClaims))
		case nameConsumer, nameGroups:
			e.aboutCaller = true
			e.varies = append(e.varies, "consumer")
		case nameClientIP:
			e.varies = append(e.varies, "ip")
		}
		// Method, path, host, scheme and query are in every key of a cache.
	}
	references := tree.ReferenceMap()
	nameOf := func(x ast.Expr) string {
		if r := references[x.ID()]; r != nil {
			return r.Name
		}
		return ""
	}
	var visit func(x ast.NavigableExpr)
	visit = func(x ast.NavigableExpr) {
		if operand, member := memberOf(x); operand != nil && nameOf(operand) != "" {
			note(nameOf(operand), member)
			return
		}
		if name := nameOf(x); x.Kind() == ast.IdentKind || x.Kind() == ast.SelectKind && name != "" {
			note(name, "")
			return
		}
		for _, child := range x.Children() {
			visit(child)
		}
	}
	visit(ast.NavigateAST(tree))
	slices.Sort(e.varies)
	e.varies = slices.Compact(e.varies)
}

// memberOf takes map.member, map["member"], map.?member, map[?"member"] and "member" in map apart; a nil operand means that x is none of them.
func memberOf(x ast.NavigableExpr) (operand ast.Expr, member string) {
	if x.Kind() == ast.SelectKind {
		return x.AsSelect().Operand(), x.AsSelect().FieldName()
	}
	if x.Kind() != ast.CallKind || len(x.AsCall().Args()) != 2 {
		return nil, ""
	}
	args := x.AsCall().Args()
	switch x.AsCall().FunctionName() {
	case operators.Index, operators.OptIndex, operators.OptSelect:
	case operators.In:
		args = []ast.Expr{args[1], args[0]}
	default:
		return nil, ""
	}
	if args[1].Kind() != ast.LiteralKind {
		return nil, ""
	}
	name, ok := args[1].AsLiteral().Value().(string)
	if !ok || name == "" {
		return nil, ""
	}
	return args[0], name
}

func orWhole(prefix, member, whole string) string {
	if member == "" {
		return whole
	}
	return prefix + strings.ToLower(member)
}

// holds evaluates the expression. An error, a cost over the bound among them, is no decision, which the caller takes for a no.
func (e *expression) holds(x *exchange.Exchange) (bool, error) {
	v := views.Of(x)
	v.of(x)
	out, _, err := e.program.Eval(v)
	if err != nil {
		return false, err
	}
	return out == types.True, nil
}
