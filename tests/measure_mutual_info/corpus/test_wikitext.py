from __future__ import annotations

import io

from measure_mutual_info.corpus.wikitext import articles, wikitext_to_prose

WIKITEXT = """{{Infobox|name=A|image=b.jpg}}
[[File:A.jpg|thumb|A [[caption]]]]
'''Albedo''' (; from [[Latin language|Latin]] ''albedo''{{lang|la|candor}}) is ''p''.<ref name=x>{{cite|a}}</ref>
It<!-- not
shown --> is {{convert|3|km|mi}} wide&nbsp;and {{unknown}}, in ''Iliad'''s style.

{| class="wikitable"
| a || b
|}

== Only a table ==
{| class="wikitable"
|-
| c
|}

== History ==
=== Early ===
* first ({{IPA-en|x}})
* ''second [[:Category:Things|things]]

=== Late ===
<gallery>
File:B.jpg|text
</gallery>

==See also==
* [[Other]]
=== Below ===
dropped too

== After ==
Open <ref>never closed and ''so on''.

== References ==
{{reflist}}
[[Category:Light]]
[[fr:Albédo]]
"""

PROSE = """Albedo (from Latin albedocandor) is p.
It is 3 km wide and, in Iliad's style.

History

Early

first
second things

After

Open never closed and so on.
"""


def test_wikitext_becomes_paragraphs():
    assert wikitext_to_prose(WIKITEXT) == PROSE


def test_article_without_prose_is_empty():
    assert wikitext_to_prose("{{disambiguation}}\n== See also ==\n* [[A]]") == ""


XML = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>One</title><ns>0</ns><revision><text>Some ''prose''.</text></revision></page>
<page><title>Two</title><ns>0</ns><redirect title="One" /><revision><text>#REDIRECT [[One]]</text></revision></page>
<page><title>Talk:One</title><ns>1</ns><revision><text>Chat.</text></revision></page>
<page><title>Hollow</title><ns>0</ns><revision><text /></revision></page>
<page><title>Thrée</title><ns>0</ns><revision><text>Plus d'étoiles.</text></revision></page>
</mediawiki>"""
ARTICLES = [{"title": "One", "text": "Some prose.\n"}, {"title": "Thrée", "text": "Plus d'étoiles.\n"}]


def test_articles_are_of_the_main_namespace_and_no_redirects():
    assert list(articles(io.BytesIO(XML.encode()))) == ARTICLES
