package convert

import (
	"bytes"
	"encoding/xml"
	"errors"

	"sluice/gateway/document"
)

// SOAP says how an operation is called.
type SOAP struct {
	// Version is "1.1" or "1.2".
	Version string
	// Operation is the element in the envelope's body, Namespace its name space.
	Operation, Namespace string
}

const (
	soap11 = "http://schemas.xmlsoap.org/soap/envelope/"
	soap12 = "http://www.w3.org/2003/05/soap-envelope"
)

// JSONToSOAP puts a JSON object into an envelope as the parameters of the operation.
func JSONToSOAP(dst []byte, v *document.Value, s *SOAP) ([]byte, error) {
	switch {
	case v.Kind() != document.Object:
		return nil, errors.New("it is no object, as the parameters of an operation are")
	case !isXMLName(s.Operation):
		return nil, errXMLName
	}
	space := soap11
	if s.Version == "1.2" {
		space = soap12
	}
	dst = append(dst, xml.Header...)
	dst = append(append(append(dst, `<soap:Envelope xmlns:soap="`...), space...), `"><soap:Body><`...)
	dst = append(dst, s.Operation...)
	if s.Namespace != "" {
		dst = append(appendXMLText(append(dst, ` xmlns="`...), s.Namespace, true), '"')
	}
	dst, err := appendContent(dst, s.Operation, v)
	if err != nil {
		return nil, err
	}
	return append(dst, "</soap:Body></soap:Envelope>"...), nil
}

var errEnvelope = errors.New("it is no SOAP envelope")

// SOAPToJSON takes the answer out of an envelope, without the names of name
// spaces. A fault becomes {"fault":{"code":…,"message":…,"detail":…}}.
func SOAPToJSON(dst, src []byte, o *XMLOptions) (out []byte, fault bool, err error) {
	root, err := parseXML(src, true)
	if err != nil {
		return nil, false, err
	}
	body := root.child("Body")
	if root.name != "Envelope" || body == nil {
		return nil, false, errEnvelope
	}
	if len(body.children) == 0 {
		return append(dst, "{}"...), false, nil
	}
	answer := body.children[0]
	if answer.name == "Fault" {
		return answer.appendFault(dst, o), true, nil
	}
	if len(answer.attributes) == 0 && len(answer.children) == 0 && len(answer.text) == 0 {
		return append(dst, "{}"...), false, nil
	}
	return answer.appendJSON(dst, o), false, nil
}

func (e *element) child(name string) *element {
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// appendFault appends a fault of either version.
func (e *element) appendFault(dst []byte, o *XMLOptions) []byte {
	code, message, detail := e.child("faultcode"), e.child("faultstring"), e.child("detail")
	if e.child("Code") != nil {
		code, message, detail = e.child("Code").child("Value"), e.child("Reason").child("Text"), e.child("Detail")
	}
	text := func(e *element) []byte {
		if e == nil {
			return nil
		}
		t := bytes.TrimSpace(e.text)
		return t
	}
	dst = append(dst, `{"fault":{"code":`...)
	dst = append(document.AppendString(dst, text(code)), `,"message":`...)
	dst = document.AppendString(dst, text(message))
	if detail != nil {
		dst = detail.appendJSON(append(dst, `,"detail":`...), o)
	}
	return append(dst, "}}"...)
}
