"""Names and streets: frozen ones in seven locales, and Faker's in every locale that it has.

The frozen ones were drawn once from the providers of Faker 40.54 (MIT), which does not promise the
same output in every version; Faker is imported only for generated people. A name cannot be reserved
as an e-mail domain can, so a full name pairs a given name and a surname at random. Faker invented
the streets, and without a town or a postcode an address does not exist. Words are sorted shortest
first, so that a source of choices that shrinks towards the first item gives simple people.
"""

from __future__ import annotations

import functools
import random
import re
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_unlearn.people.draws import Choices

if TYPE_CHECKING:
    from faker import Generator


# Houses are numbered from 1 to here.
HOUSES = 200


@dataclass(frozen=True, slots=True)
class Locale:
    """Given names, surnames and streets of one language, and how a house is addressed.

    `layout` has the fields `street` and `number`.
    """

    code: str
    given: tuple[str, ...]
    surnames: tuple[str, ...]
    streets: tuple[str, ...]
    layout: str


LOCALES: tuple[Locale, ...] = (
    Locale(
        "en",
        tuple(
            "Kim Dawn Iain Kate Leah Mark Mary Paul Rhys Tony Chloe Clare Craig Diane Dylan "
            "Emily Fiona Grace Jamie Jayne Julie Laura Lydia Nigel Peter Sally Shane Susan "
            "Terry Andrea Brenda Connor Damien Eileen George Gerard Marion Martin Nicola Nicole "
            "Tracey Abigail Barbara Bethany Carolyn Francis Maurice Melissa Patrick Shannon "
            "Stanley Suzanne Terence Timothy Jonathan Lorraine Patricia Geraldine Josephine "
            "Stephanie".split()
        ),
        tuple(
            "Ali Bell Cole Gray Hale Kaur Lowe Mann Shah Webb Banks Bevan Brown Jones Lewis "
            "Lynch Mason Moore Payne Price Scott Smith Young Arnold Burton Clarke Conway Davies "
            "Foster Gibson Glover Harris Holden Hughes Knight Morgan Morley Morris Murphy "
            "Murray Norris Parker Rhodes Savage Walker Weston Wilson Bennett Brookes Collins "
            "Jackson Johnson Roberts Anderson McKenzie Phillips Saunders Williams Woodward "
            "Patterson".split()
        ),
        tuple(
            "Carl Ramp | Denis Rue | Hale Fort | Callum Rue | Jordan Rue | "
            "June Wells | Tracy Road | Alison Ways | Dominic Rue | Georgia Dam | "
            "Irene Vista | Louis Crest | Nash Island | Barry Tunnel | Buckley Loaf | "
            "Janet Cliffs | Janice Grove | Maria Valley | Short Skyway | "
            "Elaine Radial | Marshall Dale | McDonald Burg | Nicola Bridge | "
            "Johnston Parks | Lorraine Locks | Pamela Station | Bradshaw Valley | "
            "Denise Mountains | Kathryn Underpass | Richardson Mission".split(" | ")
        ),
        "{number} {street}",
    ),
    Locale(
        "de",
        tuple(
            "Isa Alma Brit Elif Else Emin Lutz Nico Olaf Rosa Susi Achim Adina Anika Ernst "
            "Hasso Heide Ilhan Janko Julie Kenan Thilo Tomas Uschi Danilo Dorota Eduard Fatima "
            "Frieda Hannah Marcus Regine Ursula Adeline Christa Cynthia Janette Larissa Miodrag "
            "Phillip Roberto Siegmar Angelina Brigitta Dietrich Hellmuth Karoline Kristina "
            "Leokadia Margitta Mercedes Natalija Cornelius Eberhardt Magdalene Roselinde "
            "Aleksandar Lieselotte Margarethe Bernhardine".split()
        ),
        tuple(
            "Drub Hein Koch Kuhl Pohl Rose Rust Trüb Barth Dobes Faust Heser Hövel Linke Lorch "
            "Meyer Naser Noack Preiß Römer Sauer Thies Trupp Tröst Wilms Binner Ehlert Jessel "
            "Knappe Löchel Nerger Renner Ritter Seidel Staude Steuer Trubin Conradi Hauffer "
            "Hermann Hornich Kühnert Löffler Ortmann Patberg Peukert Ruppert Schinke Scholtz "
            "Steckel Tlustek Weitzel Misicher Pruschke Röhrdanz Schomber Eberhardt Mielcarek "
            "Kruschwitz Möchlichen".split()
        ),
        tuple(
            "Gutering | Lübsstr. | Stumpfweg | Dietzplatz | Roggeallee | "
            "Vogtstraße | Fischerstr. | Mohauptstr. | Preißstraße | Staudeallee | "
            "Briemergasse | Casparstraße | Dippelstraße | Fiebigstraße | "
            "Förstergasse | Mentzelplatz | Kühnertstraße | Patbergstraße | "
            "Stadelmannstr. | Sylvia-Ernst-Weg | Elsbeth-Beyer-Weg | "
            "Georgios-Sölzer-Weg | Elena-Gumprich-Platz | Marleen-Hoffmann-Ring | "
            "Belinda-Hauffer-Straße | Ditmar-Ackermann-Straße | "
            "Friedhilde-Hethur-Straße | Verena-Scheuermann-Allee | "
            "Klaus-Ulrich-Heuser-Gasse | Phillip-Austermühle-Gasse".split(" | ")
        ),
        "{street} {number}",
    ),
    Locale(
        "fr",
        tuple(
            "Guy Zoé Marc Nath Adèle Alain André Denis Lucie Noémi Susan Élise Adrien Agathe "
            "Astrid Claude Céline Denise Eugène Maryse Odette Sabine Sylvie Thomas Georges "
            "Maurice Monique Olivier Pauline Thierry Thérèse Édouard Brigitte Claudine Emmanuel "
            "François Frédéric Hortense Laetitia Laurence Margaret Marianne Michelle Philippe "
            "Pénélope Stéphane Timothée Zacharie Anastasie Catherine Constance Henriette "
            "Joséphine Madeleine Sébastien Alexandria Emmanuelle Frédérique Jacqueline "
            "Philippine".split()
        ),
        tuple(
            "Lamy Lévy Mary Paul Barbe Hamel Hardy Henry Leduc Marin Petit Pinto Robin Royer "
            "Bonnin Briand Brunel Cousin Didier Dumont Girard Hubert Lenoir Lesage Morvan "
            "Parent Pineau Renaud Rocher Voisin Wagner Bruneau Chauvin Fischer Gilbert Guillou "
            "Jourdan Lacombe Laroche Laurent Leconte Loiseau Marchal Poirier Rivière Rolland "
            "Tessier Blanchet Charrier Delannoy Ferreira Gosselin Lelièvre Maréchal Thibault "
            "Vaillant Alexandre Blanchard Deschamps Toussaint".split()
        ),
        tuple(
            "rue Bègue | rue Coste | rue Perrot | avenue de Gay | rue de Hoarau | "
            "avenue Laroche | avenue de Barbe | chemin Chartier | chemin de Meyer | "
            "chemin de Pires | rue Éric Martin | avenue Petitjean | "
            "avenue de Turpin | boulevard Pierre | chemin Luc Bertin | "
            "chemin de Laroche | rue Émilie Hubert | boulevard Bertrand | "
            "boulevard de Lecoq | rue Franck Perrier | rue Manon Da Costa | "
            "rue de Charpentier | avenue de Rodrigues | avenue Suzanne Perrin | "
            "boulevard Émilie Perez | boulevard Gilles Joseph | "
            "chemin Étienne Leclercq | boulevard de Charpentier | "
            "boulevard Raymond Sauvage | boulevard Antoinette Perrier".split(" | ")
        ),
        "{number} {street}",
    ),
    Locale(
        "es",
        tuple(
            "Ani Dan Noa Noé Amor Chuy Flor Iris Jose José Lupe Luís Maxi Olga Pepe Aitor Ariel "
            "Carla Delia Diego Ester Lucio Pablo Abilio Armida Eliana Loreto Marcia Miguel "
            "Ofelia Renato Régulo Sarita Sosimo Teresa Valero Úrsula Brígida Carmelo Cecilia "
            "Cecilio Clímaco Encarna Felicia Isidora Jacinto Miguela Soledad Tatiana Vinicio "
            "Cayetana Cristian Epifanio Humberto Maricruz Mauricio Rosalina Zacarías Constanza "
            "Purificación".split()
        ),
        tuple(
            "Amat Juan Mena Puig Roca Roig Amaya Carro Conde Folch Gomez Leiva Parra Román "
            "Saura Serra Soler Soria Tello Tovar Valls Vidal Yáñez Agullo Avilés Jordán Rivera "
            "Rovira Sedano Tejero Toledo Tudela Zabala Botella Carnero Moliner Peinado Pujadas "
            "Quesada Roselló Soriano Vilalta Aparicio Aragonés Calderon Castelló Cisneros "
            "Granados Iglesias Manrique Mariscal Palomino Torralba Valencia Valentín Zamorano "
            "Francisco Velázquez Mendizábal Villaverde".split()
        ),
        tuple(
            "C. Alberto Camino | C. de Nuria Comas | Plaza Vito Blanco | "
            "C. Marcos Exposito | Paseo Sabas Aragón | Paseo Jacinto Suárez | "
            "Rambla Gisela Estevez | Alameda Aurelia Toledo | "
            "Camino Aurora Gabaldón | Pasaje de Ágata España | "
            "Rambla Artemio Asensio | Rambla de Elpidio Maza | "
            "Ronda de Lucio Solsona | Via de Urbano Villalba | "
            "Vial de Vinicio Alcalá | Acceso de Fabián Adadia | "
            "Plaza de Amancio Vicens | Pasaje de Concha Donaire | "
            "Rambla de Juan José Simó | Alameda de Isabela Mateos | "
            "Avenida de Aurelio Oliver | Callejón de Teodoro Ribas | "
            "Camino de Consuelo Téllez | Cuesta de Bernardo Larrea | "
            "Alameda de Xiomara Carrión | Alameda de Álvaro Guijarro | "
            "Pasadizo Isaías Villanueva | Pasadizo Luis Ángel Blasco | "
            "Acceso de Clemente Ferreras | Glorieta de Alondra Almagro".split(" | ")
        ),
        "{street}, {number}",
    ),
    Locale(
        "it",
        tuple(
            "Ivo Elmo Etta Gino Lisa Luca Olga Adamo Adele Anita Beppe Diana Donna Lidia Lucio "
            "Luisa Maura Roman Sonia Biagio Bianca Danilo Nicola Paride Teresa Ubaldo Allegra "
            "Camillo Cecilia Cirillo Claudio Giorgio Marissa Martina Michele Paulina Ranieri "
            "Roberto Rosaria Tiziano Agostino Angelina Antonina Fabrizia Giacobbe Giovanna "
            "Lamberto Lucrezia Maurilio Mercedes Patrizia Victoria Virginia Giulietta Pierpaolo "
            "Silvestro Valentina Costantino Gianfranco Massimiliano".split()
        ),
        tuple(
            "Omma Balla Bembo Conte Finzi Ioppi Satta Segni Stein Toldo Verga Vespa Zacco "
            "Coardi Ortese Seddio Treves Almagià Asmundo Carullo Cerutti Garzoni Germano "
            "Pacillo Pezzali Querini Rinaldi Scalera Schiavo Soffici Sonnino Tassoni Trapani "
            "Vismara Buonauro Castelli Gregorio Majewski Pignatti Pugliese Riccardi Saracino "
            "Soderini Tresoldi Trezzini Zecchini Armellini Camilleri Filippini Marzorati "
            "Tarantini Tornatore Toscanini Mascheroni Piacentini Ravaglioli Spanevello "
            "Stradivari Guinizzelli Guicciardini".split()
        ),
        tuple(
            "Via Salata | Via Trebbi | Borgo Dante | Canale Nitti | Via Agostini | "
            "Via Mercedes | Vicolo Nadia | Piazza Tullio | Viale Fagotto | "
            "Vicolo Chechi | Borgo Ludovica | Canale Stucchi | Piazza Roberta | "
            "Strada Achille | Viale Donatoni | Viale Paganini | Vicolo Umberto | "
            "Rotonda Cassarà | Rotonda Marconi | Strada Procacci | Strada Roncalli | "
            "Stretto Polizzi | Vicolo Vergerio | Contrada Luciano | "
            "Incrocio Alberto | Incrocio Vanessa | Stretto Graziano | "
            "Viale Boccherini | Incrocio Zabarella | Stretto Gianfranco".split(" | ")
        ),
        "{street}, {number}",
    ),
    Locale(
        "pl",
        tuple(
            "Ewa Ida Iwo Alex Igor Kaja Nela Olaf Róża Aleks Anita Artur Dawid Eliza Jakub "
            "Kamil Oskar Paweł Sonia Adrian Albert Aniela Bianka Blanka Dorota Fabian Ignacy "
            "Janina Julian Julita Karina Marika Monika Robert Sandra Stefan Sylwia Szymon "
            "Tomasz Aurelia Cyprian Dagmara Dariusz Jędrzej Leonard Malwina Mateusz Maurycy "
            "Natasza Nikodem Oliwier Tadeusz Angelika Julianna Krystyna Marianna Nataniel "
            "Marcelina Franciszek Maksymilian".split()
        ),
        tuple(
            "Gaś Muc Fryś Hnat Zysk Albin Barej Gołas Gwara Helak Kolek Kozar Nawój Noras Orwat "
            "Słoka Grubba Grzela Hołota Kielan Knapek Korpal Mikosz Paczos Pasiut Portka Rezmer "
            "Ryguła Sibiga Smutek Ślimak Klinger Kozdroń Ligenza Małycha Omiotek Paściak "
            "Reimann Sieczko Skiepko Stachów Stryjek Szykuła Tarasek Wichary Ciepluch Haponiuk "
            "Kazberuk Krzykała Misiejuk Stanclik Trepczyk Pasierbek Wojewódka Maziarczyk "
            "Waloszczyk Zieniewicz Zinkiewicz Błażejewicz Maszkiewicz".split()
        ),
        tuple(
            "Miła | Długa | Polna | Sowia | Glówna | Ceglana | Grabowa | Głogowa | "
            "Matejki | Pogodna | Wiązowa | Brzozowa | Jeziorna | Lubelska | "
            "Rolnicza | Harcerska | Kopernika | Moniuszki | Poznańska | Strażacka | "
            "Swierkowa | Turkusowa | Zapolskiej | Popiełuszki | Turystyczna | "
            "Tysiąclecia | Spółdzielcza | Wypoczynkowa | Słonecznikowa | "
            "Władysława Jagiełły".split(" | ")
        ),
        "ul. {street} {number}",
    ),
    Locale(
        "sv",
        tuple(
            "Ida Jan Åke Åsa Anne Carl Ebbe Elin Eric Erik Karl Lisa Rolf Sven Tony Alice Bengt "
            "Greta Johan Jonas Maria Marie Peter Petra Vidar Agneta Amanda Anders Astrid Helena "
            "Helene Ingrid Linnea Mikael Oliver Roland Thomas Ulrika Emanuel Johanna Josefin "
            "Lennart Lisbeth Rebecka Theodor William Angelica Carolina Caroline Elisabet "
            "Fredrika Karolina Kristina Nathalie Torbjörn Valentin Victoria Christina Elisabeth "
            "Britt-Marie".split()
        ),
        tuple(
            "Asp Liu Fors Lind Skog Wang Abbas Ahmed Blixt Norén Osman Svahn Ekberg Larsen "
            "Nygren Olsson Thulin Wallin Ericson Forsman Haglund Jansson Jonsson Jönsson "
            "Larsson Lindahl Nilsson Persson Sjöberg Viklund Berggren Eriksson Fransson "
            "Hagström Hellberg Karlsson Lindberg Lindgren Lundgren Mattsson Paulsson Sundberg "
            "Svedberg Svensson Vikström Andersson Arvidsson Bengtsson Johansson Josefsson "
            "Magnusson Petersson Sjöstrand Brännström Gustafsson Gustavsson Henriksson "
            "Martinsson Mårtensson Pettersson".split()
        ),
        tuple(
            "Nygränd | Bäckvägen | Genstigen | Grangränd | Kyrkvägen | Parkgatan | "
            "Parkvägen | Skolvägen | Björkvägen | Kvarngränd | Kyrkovägen | "
            "Parkstigen | Skogsgränd | Skolstigen | Skoltorget | Björkstigen | "
            "Kvarnstigen | Kyrkotorget | Skogsstigen | Strandvägen | Fabriksgatan | "
            "Idrottsgatan | Industrigränd | Industrivägen | Järnvägsgränd | "
            "Industristigen | Trädgårdsgatan | Trädgårdsvägen | Trädgårdsstigen | "
            "Trädgårdstorget".split(" | ")
        ),
        "{street} {number}",
    ),
)


def full_name(choices: Choices, locale: Locale) -> str:
    """Return a given name and a surname of a locale."""
    return f"{choices.choice(locale.given)} {choices.choice(locale.surnames)}"


def street_address(choices: Choices, locale: Locale) -> str:
    """Return a street and a house number as a locale writes them."""
    street = choices.choice(locale.streets)
    return locale.layout.format(street=street, number=choices.below(HOUSES) + 1)


def count_names() -> int:
    """Return the number of full names; one shared by two locales counts once."""
    surnames: dict[str, set[str]] = {}
    for locale in LOCALES:
        for given in locale.given:
            surnames.setdefault(given, set()).update(locale.surnames)
    return sum(map(len, surnames.values()))


def count_street_addresses() -> int:
    """Return the number of street addresses over all locales."""
    return HOUSES * len({(each.layout, street) for each in LOCALES for street in each.streets})


# Beyond ASCII only Latin letters: the locales need no others.
_UPPER = "A-Z" + "".join(c for c in map(chr, range(0xC0, 0x180)) if c.isupper())

# A capitalized word, and two or three of them, whoever they belong to. A quote ends a word.
# Atomic groups: up to Python 3.11.4 a possessive repeat of a group keeps what its last, failing try
# has read (gh-106052).
_WORD = rf"[{_UPPER}]\w++(?>(?:['-]\w++)*)"
NAME_PATTERN = re.compile(rf"(?<!\w){_WORD} {_WORD}(?>(?: {_WORD})?)")


def _layout_pattern(locale: Locale) -> str:
    streets = "|".join(map(re.escape, sorted(locale.streets, key=len, reverse=True)))
    return (
        re.escape(locale.layout)
        .replace(r"\{street\}", f"(?:{streets})")
        .replace(r"\{number\}", r"\d{1,3}")
    )


# A number that goes on ("120" of "1205") is not part of another.
STREET_ADDRESS_PATTERN = re.compile(
    rf"(?<![\w-])(?:{'|'.join(map(_layout_pattern, LOCALES))})(?![\w-])"
)


# Kinds whose values Faker makes, and its name for each; `KINDS` has frozen words for the first two.
WORD_KINDS = {
    "name": "name",
    "street_address": "street_address",
    "city": "city",
    "company": "company",
    "job_title": "job",
}
# A literal or a comment would have to escape these, and would then not contain the value as it is.
_ESCAPED = re.compile(r"['\"`\\\x00-\x1f\x7f]")
# After this many unusable words in a row, there are taken to be no others.
_FRUITLESS = 200


def faker_version() -> str:
    """Return the installed version of Faker, without importing it."""
    return version("faker")


@functools.cache
def locales() -> tuple[str, ...]:
    """Return every locale that Faker has, sorted."""
    from faker.config import AVAILABLE_LOCALES

    return tuple(sorted(AVAILABLE_LOCALES))


def word(kind: str, locale: str, choices: Choices) -> str | None:
    """Return a name, street, city, company or job title as one line; None if there is none.

    `kind` is one of `WORD_KINDS`. Words that a string literal would have to escape are drawn again.
    With one version of Faker, the same choices give the same word on every machine.
    """
    generator = _generator(locale)
    source = generator.random
    assert isinstance(source, _Chosen)
    source.choices_of = choices
    for _ in range(_FRUITLESS):
        text = ", ".join(generator.format(WORD_KINDS[kind]).split("\n")).strip()
        if text and not _ESCAPED.search(text):
            return text
    return None


class _Chosen(random.Random):
    """Python's distributions over a source of choices; index 0 is the simplest, as everywhere."""

    choices_of: Choices

    def random(self) -> float:
        return float(self.choices_of.below(1 << 53)) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        bits = 0
        for start in range(0, k, 60):
            bits |= self.choices_of.below(1 << min(60, k - start)) << start
        return bits


@functools.cache
def _generator(locale: str) -> Generator:
    """Return Faker's generator of a locale, with its own source of choices."""
    from faker import Factory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a locale that Faker will drop one day
        # All names equally often: this takes half the time, and fewer draws collide.
        generator = Factory.create(locale, use_weighting=False)
    for provider in generator.providers:
        # Italy's come from a set (Faker 40), in a different order in every process.
        if isinstance(cities := getattr(provider, "cities", None), list):
            vars(provider)["cities"] = sorted(cities)
    generator.random = _Chosen(0)
    return generator
