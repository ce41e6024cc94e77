package authorize

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"reflect"
	"strconv"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"sluice/gateway/exchange"
)

// view is an exchange as expressions see it. It belongs to the exchange and is valid while one expression is evaluated.
type view struct {
	x       *exchange.Exchange
	headers lazyMap
	query   lazyMap
	claims  lazyMap
}

var views = exchange.NewSlot[view]()

func (v *view) of(x *exchange.Exchange) {
	v.x = x
	v.headers = lazyMap{x: x, find: findHeader, all: allHeaders}
	v.query = lazyMap{x: x, find: findQuery, all: allQuery}
	v.claims = lazyMap{x: x, find: findClaim, all: allClaims}
}

// Parent makes view a cel.Activation: there is none.
func (v *view) Parent() cel.Activation { return nil }

// ResolveName makes what an expression names.
func (v *view) ResolveName(name string) (any, bool) {
	x := v.x
	switch name {
	case nameMethod:
		return types.String(x.Method()), true
	case namePath:
		return types.String(x.Path), true
	case nameHost:
		return types.String(x.Host), true
	case nameScheme:
		return types.String(x.Scheme), true
	case nameQuery:
		return &v.query, true
	case nameHeaders:
		return &v.headers, true
	case nameClaims:
		return &v.claims, true
	case nameConsumer:
		if x.Identity.Consumer == nil {
			return types.String(""), true
		}
		return types.String(x.Identity.Consumer.Name), true
	case nameGroups:
		if x.Identity.Consumer == nil {
			return types.NewStringList(types.DefaultTypeAdapter, nil), true
		}
		return types.NewStringList(types.DefaultTypeAdapter, x.Identity.Consumer.Groups), true
	case nameClientIP:
		return types.String(x.ClientAddr.Unmap().String()), true
	}
	return nil, false
}

// lazyMap answers for single members without making a map; all else is answered by the whole map.
type lazyMap struct {
	x    *exchange.Exchange
	find func(x *exchange.Exchange, key string) (ref.Val, bool)
	all  func(x *exchange.Exchange) ref.Val
}

// whole makes the map, or says why there is none.
func (m *lazyMap) whole() (traits.Mapper, ref.Val) {
	v := m.all(m.x)
	if full, ok := v.(traits.Mapper); ok {
		return full, nil
	}
	return nil, v
}

// Find is a member; for one that can not be read it is an error.
func (m *lazyMap) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	return m.find(m.x, string(name))
}

// Get is a member that must be there.
func (m *lazyMap) Get(key ref.Val) ref.Val {
	v, found := m.Find(key)
	if !found {
		if v != nil {
			return v
		}
		return types.NewErr("no such key: %v", key)
	}
	return v
}

// Contains tells whether a member is there.
func (m *lazyMap) Contains(key ref.Val) ref.Val {
	v, found := m.Find(key)
	if v != nil && types.IsError(v) {
		return v
	}
	return types.Bool(found)
}

// Size is the number of members.
func (m *lazyMap) Size() ref.Val {
	full, err := m.whole()
	if err != nil {
		return err
	}
	return full.Size()
}

// Iterator goes through the names of the members.
func (m *lazyMap) Iterator() traits.Iterator {
	full, err := m.whole()
	if err != nil {
		// An iterator can not fail, and what was not looked at must not count as looked at: evaluation ends with the panic's text as its error.
		panic(err.(*types.Err))
	}
	return full.Iterator()
}

// Equal compares the whole map.
func (m *lazyMap) Equal(other ref.Val) ref.Val {
	full, err := m.whole()
	if err != nil {
		return err
	}
	if o, ok := other.(*lazyMap); ok {
		if other, err = o.whole(); err != nil {
			return err
		}
	}
	return full.Equal(other)
}

// ConvertToNative converts the whole map.
func (m *lazyMap) ConvertToNative(to reflect.Type) (any, error) {
	full, err := m.whole()
	if err != nil {
		return nil, err.(*types.Err)
	}
	return full.ConvertToNative(to)
}

// ConvertToType converts the whole map.
func (m *lazyMap) ConvertToType(to ref.Type) ref.Val {
	full, err := m.whole()
	if err != nil {
		return err
	}
	return full.ConvertToType(to)
}

// Type is the type of every map.
func (m *lazyMap) Type() ref.Type { return types.MapType }

// Value is the whole map.
func (m *lazyMap) Value() any {
	full, err := m.whole()
	if err != nil {
		return err.Value()
	}
	return full.Value()
}

// findHeader finds a header by its name in lower case. Several lines are one value (RFC 9110, section 5.3).
func findHeader(x *exchange.Exchange, name string) (ref.Val, bool) {
	var value []byte
	lines := 0
	for i := range x.Fields {
		f := &x.Fields[i]
		if !isLower(name) || !exchange.EqualFold(f.Name, name) {
			continue
		}
		if lines++; lines == 1 {
			value = f.Value
			continue
		}
		value = append(append(bytes.Clone(value), ", "...), f.Value...)
	}
	if lines == 0 {
		return nil, false
	}
	return types.String(value), true
}

func isLower(name string) bool {
	for i := range len(name) {
		if 'A' <= name[i] && name[i] <= 'Z' {
			return false
		}
	}
	return true
}

func allHeaders(x *exchange.Exchange) ref.Val {
	m := make(map[string]string, len(x.Fields))
	for i := range x.Fields {
		name := string(bytes.ToLower(x.Fields[i].Name))
		if before, ok := m[name]; ok {
			m[name] = before + ", " + string(x.Fields[i].Value)
		} else {
			m[name] = string(x.Fields[i].Value)
		}
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, m)
}

// ambiguous is the value of a parameter that is written twice: the backend may believe the one that the expression does not see.
func ambiguous(name string) ref.Val {
	return types.NewErr("the query has several parameters %q", name)
}

func findQuery(x *exchange.Exchange, name string) (ref.Val, bool) {
	switch value, n := x.QueryValue(name); n {
	case 0:
		return nil, false
	case 1:
		return types.String(value), true
	}
	return ambiguous(name), false
}

func allQuery(x *exchange.Exchange) ref.Val {
	m := map[string]string{}
	for pair := range bytes.SplitSeq(x.Query, []byte{'&'}) {
		raw, _, _ := bytes.Cut(pair, []byte{'='})
		if len(raw) == 0 {
			continue
		}
		name, err := url.QueryUnescape(string(raw))
		if err != nil {
			return types.WrapErr(err)
		}
		value, n := x.QueryValue(name)
		if n > 1 {
			return ambiguous(name)
		}
		m[name] = string(value)
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, m)
}

// document is what claims are that came as one JSON object.
type document interface {
	// JSON is the whole of it, Member the text of one of its members.
	JSON() []byte
	Member(name string) (text []byte, ok bool)
}

func findClaim(x *exchange.Exchange, name string) (ref.Val, bool) {
	claims := x.Identity.Claims
	if claims == nil {
		return nil, false
	}
	doc, ok := claims.(document)
	if !ok {
		text, ok := claims.Claim(name)
		if !ok {
			return nil, false
		}
		return types.String(text), true
	}
	text, ok := doc.Member(name)
	if !ok {
		return nil, false
	}
	return decode(text)
}

func allClaims(x *exchange.Exchange) ref.Val {
	switch doc, ok := x.Identity.Claims.(document); {
	case x.Identity.Claims == nil:
		return types.NewDynamicMap(types.DefaultTypeAdapter, map[string]any{})
	case !ok:
		return types.NewErr("these claims can only be asked for by name")
	default:
		v, _ := decode(doc.JSON())
		return v
	}
}

// decode reads JSON. An object that has a name twice is an error: two readers could believe different values.
func decode(text []byte) (ref.Val, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d)
	if err != nil {
		return types.WrapErr(err), false
	}
	return types.DefaultTypeAdapter.NativeToValue(v), true
}

func decodeValue(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := decodeValue(d)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		object := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeValue(d)
			if err != nil {
				return nil, err
			}
			key, _ := name.(string)
			if _, twice := object[key]; twice {
				return nil, errors.New("a claim has the same name twice in one object")
			}
			object[key] = v
		}
		_, err := d.Token()
		return object, noEOF(err)
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		return t.Float64()
	case nil:
		return types.NullValue, nil
	default:
		return t, nil
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
